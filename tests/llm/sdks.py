"""SDKs that are given our HTTP client: how each is made, and asked.

``library`` is that of our client; "" leaves an SDK its own.
"""

from __future__ import annotations

from typing import Any

import pytest

from asynchistory import LLMFactory
from tests.llm.many_loops import Ask

KEY = "sk-canary-of-these-tests"


def openai_sdk(url: str, library: Any) -> Any:
    sdk: Any = pytest.importorskip("openai")
    client = LLMFactory().http_client(library) if library else None
    return sdk.AsyncOpenAI(base_url=url, api_key=KEY, http_client=client)


def anthropic_sdk(url: str, library: Any) -> Any:
    sdk: Any = pytest.importorskip("anthropic")
    client = LLMFactory().http_client(library) if library else None
    return sdk.AsyncAnthropic(base_url=url, api_key=KEY, http_client=client)


def langchain(url: str, library: Any) -> Any:
    models: Any = pytest.importorskip("langchain_openai")
    client = LLMFactory().http_client(library) if library else None
    return models.ChatOpenAI(model="m", base_url=url, api_key=KEY, http_async_client=client)


def asks_openai(url: str, library: str) -> Ask:
    client = openai_sdk(url, library)

    async def ask(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        answer = await client.chat.completions.create(model="m", messages=messages)
        return str(answer.choices[0].message.content)

    return ask


def asks_anthropic(url: str, library: str) -> Ask:
    client = anthropic_sdk(url, library)

    async def ask(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        answer = await client.messages.create(model="m", max_tokens=9, messages=messages)
        return str(answer.content[0].text)

    return ask


def asks_langchain(url: str, library: str) -> Ask:
    model = langchain(url, library)

    async def ask(text: str) -> str:
        return str((await model.ainvoke(text)).content)

    return ask


#: What each SDK takes.
LIBRARIES = {"openai": "httpx", "anthropic": "httpx2", "langchain": "httpx"}
SDKS = {"openai": asks_openai, "anthropic": asks_anthropic, "langchain": asks_langchain}
