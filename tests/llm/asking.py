"""One client and one question, for the tests of clients."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from asynchistory import ChatRequest, Completion, LLMClient, LLMFactory, Message
from asynchistory.testing import LoopbackLLM

KEY = "sk-canary-of-these-tests"
HI = ChatRequest(messages=(Message.of("system", "Be brief."), Message.of("user", "Hi, Zoë 🎈")))
BOTH_WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
BOTH_FORMATS = pytest.mark.parametrize("provider", ["openai", "anthropic"])


async def connect(url: str, provider: str = "openai", **options: Any) -> LLMClient:
    """A client that does not try again, unless it is told to."""
    # The key is in no variable here, as tracebacks are searched for it.
    return await LLMFactory().get(
        provider, "m", **{"base_url": url, "api_key": KEY, "max_retries": 0, **options}
    )


async def ask(
    client: LLMClient, streamed: bool, request: ChatRequest = HI
) -> tuple[Completion, list[Any]]:
    """The whole answer, and the pieces before it."""
    if not streamed:
        return await client.complete(request), []
    async with client.stream(request) as events:
        *pieces, whole = [event async for event in events]
    assert isinstance(whole, Completion)
    return whole, pieces


def connections(server: LoopbackLLM) -> int:
    """How many connections to the server this process has open."""
    gc.collect()
    port = f":{int(server.origin.rpartition(':')[2]):04X}"
    lines = Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]
    # Of its fields the third is the other end, the tenth the inode, 0 once it is closed.
    return sum(line.split()[2].endswith(port) and line.split()[9] != "0" for line in lines)
