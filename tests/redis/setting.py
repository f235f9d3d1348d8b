"""Two processes' caches before one store and one Redis, as far as a test can tell."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import anyio

from asynchistory import AsyncHistoryManager, Message, TailCache
from asynchistory.cache.redis.line import Server
from asynchistory.cache.redis.tier import RedisTier
from asynchistory.cache.tier import TierStatistics
from tests.unit.tail_setting import SlowStorage


class Setting:
    """A store, and managers whose caches know of each other by Redis alone."""

    def __init__(self, port: int, namespace: str | None = None, deadline: float = 30.0) -> None:
        self.port = port
        self.deadline = deadline  # long, so that a machine that is busy fails no test
        self.namespace = namespace or f"test-{uuid4().hex}"
        self.storage = SlowStorage()
        self.one = self.process()
        self.two = self.process()

    def process(self) -> AsyncHistoryManager:
        tier = RedisTier(Server("127.0.0.1", self.port, deadline=self.deadline), self.namespace)
        return AsyncHistoryManager(self.storage, TailCache(second=tier))

    async def __aenter__(self) -> Self:
        await self.storage.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.storage.aclose()

    async def say(self, *texts: str, session_id: str = "chat") -> None:
        await self.one.append(session_id, *[Message.of("user", text) for text in texts])

    async def fill(self, *texts: str, session_id: str = "chat") -> None:
        """Write, and have what was written in Redis."""
        await self.say(*texts, session_id=session_id)
        await read(self.one, session_id)
        assert await self.one.cache.settle()

    async def fill_only(self, *texts: str) -> None:
        """Write to what is held, so that Redis is told."""
        await read(self.one)
        await self.say(*texts)

    def key(self, session_id: str = "chat") -> bytes:
        return tier_of(self.one).key(session_id)


def tier_of(history: AsyncHistoryManager) -> RedisTier:
    tier = history.cache.second
    assert isinstance(tier, RedisTier)
    return tier


def counts(history: AsyncHistoryManager) -> TierStatistics:
    found = history.get_cache_stats().second
    assert found is not None
    return found


async def read(history: AsyncHistoryManager, session_id: str = "chat", **options: Any) -> list[str]:
    return [item.text for item in await history.last(session_id, 50, **options)]


async def back(history: AsyncHistoryManager) -> None:
    """Return when the tier is being asked again."""
    with anyio.fail_after(30):
        while counts(history).open:
            assert tier_of(history).ready in (True, False)  # whoever asks sees to it
            await anyio.lowlevel.checkpoint()
