"""One client and one question, for the tests of clients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from asynchistory import ChatRequest, Completion, LLMClient, LLMFactory, Message
from asynchistory.testing import LoopbackLLM

KEY = "sk-canary-of-these-tests"
HI = ChatRequest(messages=(Message.of("system", "Be brief."), Message.of("user", "Hi, Zoë 🎈")))
BOTH_WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
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


class Connections:
    """The connections to a server that this process has open, without those to earlier ones.

    A server that has ended may have had the same port, and a pool its connections still.
    """

    def __init__(self, server: LoopbackLLM) -> None:
        self._port = f":{int(server.origin.rpartition(':')[2]):04X}"
        self._earlier = self._open()

    def count(self) -> int:
        return len(self._open() - self._earlier)

    def _open(self) -> set[str]:
        """Their inodes."""
        lines = Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]
        # Of its fields the third is the other end, the tenth the inode, 0 once it is closed.
        fields = [line.split() for line in lines]
        return {one[9] for one in fields if one[2].endswith(self._port) and one[9] != "0"}
