"""A cache is chosen by URL or by environment, and the code stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import (
    AsyncHistoryManager,
    ConfigurationError,
    MemoryStorage,
    TailCache,
    open_history,
)
from asynchistory.cache.redis.tier import RedisTier


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCHISTORY_CACHE", raising=False)


def redis_of(history: AsyncHistoryManager) -> RedisTier:
    assert isinstance(history.cache.second, RedisTier)
    return history.cache.second


def test_a_url_chooses_the_cache() -> None:
    memory = open_history("memory://", cache="memory://?depth=7&ttl=1.5&max_bytes=1000").cache

    assert (memory.depth, memory.ttl, memory.max_bytes, memory.second) == (7, 1.5, 1000, None)
    assert open_history("memory://", cache="none").cache.max_bytes == 0
    assert open_history("memory://").cache.second is None


def test_the_environment_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCHISTORY_CACHE", "redis://cache.example:6390/3")
    history = open_history("memory://")

    assert repr(redis_of(history).server) == "redis://cache.example:6390/3"
    assert open_history("memory://", cache="memory://").cache.second is None


def test_what_a_redis_url_says() -> None:
    url = (
        "rediss://me%40x:p%2Fw@cache.example/2"
        "?namespace=chat&expire=60&deadline=0.1&depth=5&ttl=9&max_bytes=77"
    )
    cache = open_history("memory://", cache=url).cache
    tier = cache.second
    assert isinstance(tier, RedisTier)

    server = tier.server
    assert (server.host, server.port, server.db) == ("cache.example", 6379, 2)
    assert (server.username, server.password) == ("me@x", "p/w")
    assert server.tls is not None
    assert server.tls.check_hostname
    assert (server.deadline, tier.expire, tier.namespace) == (0.1, 60, "chat")
    assert (cache.depth, cache.ttl, cache.max_bytes) == (5, 9, 77)
    assert "p/w" not in repr(tier) + repr(server)


def test_stores_have_keys_of_their_own(tmp_path: Path) -> None:
    url = "redis://localhost"
    names = {
        redis_of(open_history(store, cache=url)).namespace
        for store in (tmp_path / "a.db", tmp_path / "b.db", "memory://", "memory://")
    }
    again = redis_of(open_history(tmp_path / "a.db", cache=url)).namespace

    assert len(names) == 4
    assert again in names


@pytest.mark.parametrize(
    "url",
    [
        "", "redis", "redis://", "redis://:secret@", "redis://h:x", "redis://h:99999", "redis://h/x",
        "redis://h?deadline=0", "redis://h?deadline=x", "redis://h?secret=1", "memory://x",
        "memory://?max_bytes=-1", "memory://?depth=0", "memory://?ttl=x", "http://secret@h",
        "redis://[", "NONE", "rediss://h?ca=/no/such/file",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_history("memory://", cache=url or " ")

    assert "secret@" not in str(caught.value)


def test_managers_of_one_store_share_its_cache(tmp_path: Path) -> None:
    first = open_history(tmp_path / "x.db", cache="redis://localhost")
    second = open_history(tmp_path / "x.db", cache="redis://localhost")

    assert first.cache is second.cache
    assert AsyncHistoryManager(first.storage).cache is first.cache
    with pytest.raises(ConfigurationError, match="another cache"):
        open_history(tmp_path / "x.db", cache="memory://")


def test_a_cache_of_ones_own_is_taken_as_it_is() -> None:
    cache = TailCache(depth=3)

    assert open_history("memory://", cache=cache).cache is cache


@pytest.mark.anyio
async def test_without_a_cache_each_read_is_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_history("memory://", cache="none") as history:
        await history.record_message("chat", "user", "one")
        for level in ("validated", "cached", "fresh"):
            assert len(await history.last("chat", level=level)) == 1
        counts = history.get_cache_stats()

    assert (counts.hits, counts.misses, counts.loads, counts.sessions) == (0, 0, 3, 0)


@pytest.mark.anyio
async def test_the_same_code_with_and_without_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def application() -> list[str]:
        async with open_history(tmp_path / "x.db", level="cached") as history:
            await history.record_message("chat", "user", "Hello!")
            return [record.text for record in await history.last("chat")]

    # Nobody listens there: the history is the same, for the cache is only a cache.
    monkeypatch.setenv("ASYNCHISTORY_CACHE", "redis://127.0.0.1:1")
    assert await application() == ["Hello!"]


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "coredis.connection", None)
    monkeypatch.delitem(sys.modules, "asynchistory.cache.redis.line", raising=False)
    monkeypatch.delitem(sys.modules, "asynchistory.cache.redis.tier", raising=False)

    with pytest.raises(ConfigurationError, match=r"asynchistory\[redis\]"):
        open_history(MemoryStorage().url, cache="redis://localhost")
