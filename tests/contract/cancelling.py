"""Appends that are cancelled, and what each of them told its caller."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import anyio
import anyio.lowlevel
import trio

from asynchistory import AsyncHistoryManager, HistoryQuery, Message, SessionNotFoundError

#: So many cancellations a test, each after another number of turns.
ROUNDS = 150

Cancelled = (asyncio.CancelledError, trio.Cancelled)


class Log:
    """What each append told its caller."""

    def __init__(self, history: AsyncHistoryManager) -> None:
        self.history = history
        self.returned: list[str] = []
        self.cancelled: list[str] = []
        self._count = 0

    async def append(self, size: int = 2) -> None:
        self._count += 1
        name = str(self._count)
        batch = [Message.of("user", f"{name}.{index}") for index in range(size)]
        try:
            await self.history.append("chat", *batch)
        except Cancelled:
            self.cancelled.append(name)
            raise
        self.returned.append(name)

    async def check(self) -> None:
        """Hold what callers were told against what is stored."""
        try:
            page = await self.history.query_history(HistoryQuery("chat", limit=10_000))
        except SessionNotFoundError:
            assert not self.returned
            return
        assert [record.seq for record in page] == list(range(1, len(page) + 1))
        texts = [record.text for record in page]
        stored = Counter(text.partition(".")[0] for text in texts)
        assert len(set(texts)) == len(texts), "an append was stored twice"
        assert not set(stored) & set(self.cancelled), "a cancelled append was stored"
        assert set(self.returned) <= set(stored), "an append that returned is lost"
        assert set(stored) == set(self.returned), "stored, and nobody was told"
        assert set(stored.values()) <= {2}, "half a batch was stored"


async def turns(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def some_turns(draw: random.Random) -> int:
    # Most appends end after a few hundred turns of an idle loop; some are cancelled at once.
    return draw.choice([0, 1, 2, draw.randrange(20), draw.randrange(400), draw.randrange(2000)])


async def no_stray_cancellation() -> None:
    """The task that gets here was not, or is no longer, to be cancelled: it can wait."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
