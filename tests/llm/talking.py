"""A conversation with the loopback server, for the tests of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynchistory import AsyncHistoryManager, Conversation, HistoryQuery, LLMFactory
from asynchistory.testing import CallTool, LoopbackLLM

KEY = "sk-canary-0123456789"
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 10,
    "total_tokens": 1010,
    "prompt_tokens_details": {"cached_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
#: The same as Anthropic says it.
ANTHROPIC_USAGE = {
    "input_tokens": 850,
    "cache_creation_input_tokens": 50,
    "cache_read_input_tokens": 100,
    "output_tokens": 10,
    "output_tokens_details": {"thinking_tokens": 4},
}
USAGES = {"openai": USAGE, "anthropic": ANTHROPIC_USAGE}
TWO = [CallTool("weather", {"city": "Oslo"}, id="a"), CallTool("double", {"number": 21}, id="b")]


async def weather(city: str) -> str:
    """How the weather is."""
    return f"snow in {city}"


def double(number: int) -> dict[str, int]:
    """Twice the number."""
    return {"result": 2 * number}


def talk_to(
    server: LoopbackLLM, history: AsyncHistoryManager, *tools: Any, **options: Any
) -> Conversation:
    options = {
        "provider": "openai",
        "session_id": "chat",
        "factory": LLMFactory(),
        "api_key": KEY,
        **options,
    }
    return Conversation(history, model="m", base_url=server.url, tools=tools, **options)


async def turn(conversation: Conversation, text: str = "Go on.") -> list[Any]:
    async with conversation.send(text) as events:
        return [event async for event in events]


async def stored(history: AsyncHistoryManager) -> list[Any]:
    page = await history.query_history(HistoryQuery("chat", limit=10_000))
    assert [record.seq for record in page] == list(range(1, len(page) + 1))
    return list(page)


def kinds(events: Sequence[Any]) -> list[str]:
    """The kinds of events; pieces of text that follow each other are one."""
    names = [type(event).__name__ for event in events]
    return [
        name
        for place, name in enumerate(names)
        if name != "TextDelta" or names[place - 1 : place] != ["TextDelta"]
    ]
