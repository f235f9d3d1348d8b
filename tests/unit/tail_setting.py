"""A tail cache before a store that can be held back, for the tests of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import anyio

from asynchistory import (
    AsyncHistoryManager,
    MemoryStorage,
    Message,
    StorageUnavailableError,
    TailCache,
    Version,
)
from asynchistory.queries import Tail


class SlowStorage(MemoryStorage):
    """A store whose ``tail`` can be held back, after it has looked and before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[anyio.Event] = []
        self.hold = self.fail = False
        self.tails = self.versions = self.under_way = self.most_under_way = 0
        self.leaders: list[str | None] = []  # the names of the tasks that loaded
        self._changed: anyio.Event | None = None

    async def version(self, session_id: str) -> Version | None:
        self.versions += 1
        return await super().version(session_id)

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        self.tails += 1
        self.leaders.append(anyio.get_current_task().name)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            found = await super().tail(session_id, limit)
            if self.hold:
                self.held.append(anyio.Event())
                if self._changed:
                    self._changed.set()
                await self.held[-1].wait()
            if self.fail:
                raise StorageUnavailableError("no disk")
            return found
        finally:
            self.under_way -= 1

    async def wait_for(self, loads: int) -> None:
        """Return when so many loads have been held back."""
        with anyio.fail_after(30):
            while len(self.held) < loads:
                self._changed = anyio.Event()
                await self._changed.wait()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """A cache before a store, with what a test looks at."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.storage = SlowStorage()
        self.cache = TailCache(clock=self.clock, **options)
        self.history = AsyncHistoryManager(self.storage, self.cache)
        # Another process: what it writes, this cache is not told.
        self.other = AsyncHistoryManager(self.storage, TailCache())

    async def __aenter__(self) -> Self:
        await self.storage.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.storage.aclose()

    async def say(self, *texts: str, by: AsyncHistoryManager | None = None) -> None:
        await (by or self.history).append("chat", *[Message.of("user", text) for text in texts])

    async def read(self, count: int = 20, level: Any = "validated") -> list[str]:
        return [item.text for item in await self.history.last("chat", count, level=level)]

    def since(self) -> Callable[[], tuple[int, int]]:
        before = self.cache.statistics()

        def difference() -> tuple[int, int]:
            now = self.cache.statistics()
            return now.hits - before.hits, now.loads - before.loads

        return difference
