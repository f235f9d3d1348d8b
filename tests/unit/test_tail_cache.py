"""The tail cache: what it answers, what it keeps, and that it is never staler than promised."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    ConfigurationError,
    HistoryQuery,
    MemoryStorage,
    Message,
    SessionNotFoundError,
    TailCache,
)
from tests.unit.tail_setting import Setting

pytestmark = pytest.mark.anyio


@pytest.fixture
async def at() -> AsyncIterator[Setting]:
    async with Setting() as setting:
        yield setting


# -- hits and misses


async def test_a_second_read_is_a_counted_hit(at: Setting) -> None:
    await at.say("one")
    assert await at.read() == ["one"]
    counts = at.since()

    assert await at.read() == ["one"]
    page = await at.history.query_history(HistoryQuery("chat"))

    assert [item.text for item in page] == ["one"]
    assert counts() == (2, 0)
    assert at.storage.tails == 1


async def test_a_longer_read_than_what_is_held_loads_again(at: Setting) -> None:
    at.cache.depth = 5
    await at.say(*map(str, range(50)))
    counts = at.since()

    assert await at.read(3) == ["47", "48", "49"]
    assert await at.read(5) == ["45", "46", "47", "48", "49"]
    assert counts() == (1, 1)
    assert await at.read(20) == [str(n) for n in range(30, 50)]
    assert await at.read(20) == [str(n) for n in range(30, 50)]
    assert counts() == (2, 2)


async def test_an_empty_session_is_a_hit_too(at: Setting) -> None:
    await at.history.create_session("chat")
    assert await at.read() == []
    counts = at.since()

    assert await at.read() == []
    assert counts() == (1, 0)


async def test_numbers_of_any_size_are_held(at: Setting) -> None:
    await at.history.record_tool_call("chat", "count", input={"n": 2**70})
    [call] = await at.history.last("chat")
    counts = at.since()

    assert await at.history.last("chat") == (call,)
    assert counts() == (1, 0)


# -- levels


async def test_validated_sees_what_another_process_wrote(at: Setting) -> None:
    await at.say("one")
    await at.read()

    await at.say("two", by=at.other)

    assert await at.read(level="validated") == ["one", "two"]
    assert at.cache.statistics().stale == 1


async def test_cached_asks_the_store_nothing_and_sees_this_process(at: Setting) -> None:
    await at.say("one")
    await at.read()
    asked = at.storage.tails, at.storage.versions

    await at.say("two", by=at.other)
    assert await at.read(level="cached") == ["one"]
    assert (at.storage.tails, at.storage.versions) == asked
    assert await at.read(level="validated") == ["one", "two"]
    await at.say("three")
    assert await at.read(level="cached") == ["one", "two", "three"]


async def test_fresh_always_reads_the_store(at: Setting) -> None:
    await at.say("one")
    for loads in range(1, 4):
        assert await at.read(level="fresh") == ["one"]
        assert at.storage.tails == loads
    assert await at.read(level="cached") == ["one"]
    assert at.storage.tails <= 4


async def test_the_level_of_the_manager_is_the_default(at: Setting) -> None:
    history = AsyncHistoryManager(at.storage, at.cache, level="cached")
    await at.say("one")
    await history.last("chat")

    await at.say("two", by=at.other)

    assert len(await history.last("chat")) == 1
    assert len(await history.last("chat", level="validated")) == 2


@pytest.mark.parametrize("level", ["validated", "cached", "fresh"])
async def test_a_missing_session_is_not_cached(at: Setting, level: Any) -> None:
    for _ in range(2):
        with pytest.raises(SessionNotFoundError):
            await at.read(level=level)
        with pytest.raises(SessionNotFoundError):
            await at.history.query_history(HistoryQuery("chat"), level=level)

    await at.say("one", by=at.other)
    assert await at.read(level=level) == ["one"]


# -- write rules


async def test_an_append_extends_what_is_held(at: Setting) -> None:
    await at.say("one")
    await at.read()
    counts = at.since()

    await at.say("two", "three")

    assert await at.read() == ["one", "two", "three"]
    assert await at.history.last("chat") == await at.history.last("chat", level="fresh")
    assert counts()[0] == 2
    assert at.storage.tails == 2  # the first read, and the fresh one


async def test_an_append_after_another_process_wrote_drops_what_is_held(at: Setting) -> None:
    await at.say("one")
    await at.read()

    await at.say("two", by=at.other)
    await at.say("three")

    assert await at.read(level="cached") == ["one", "two", "three"]


async def test_an_append_alone_puts_nothing_in(at: Setting) -> None:
    await at.say("one")

    assert at.cache.statistics().sessions == 0


async def test_a_replayed_append_changes_nothing(at: Setting) -> None:
    message = Message.of("user", "one")
    await at.history.append("chat", message, idempotency_key="k")
    await at.read()

    await at.history.append("chat", message, idempotency_key="k")

    assert await at.read(level="cached") == ["one"]


async def test_a_deletion_drops_what_is_held(at: Setting) -> None:
    await at.say("one")
    await at.read()

    await at.history.delete_session("chat")

    assert at.cache.statistics().sessions == 0
    with pytest.raises(SessionNotFoundError):
        await at.read(level="cached")


async def test_a_session_that_another_process_made_again_is_read_anew(at: Setting) -> None:
    await at.say("one", "two")
    await at.read()

    await at.other.delete_session("chat")
    await at.say("new", "newer", by=at.other)

    assert await at.read() == ["new", "newer"]


async def test_a_session_that_another_process_deleted_is_gone(at: Setting) -> None:
    await at.say("one")
    await at.read()

    await at.other.delete_session("chat")

    with pytest.raises(SessionNotFoundError):
        await at.read()
    with pytest.raises(SessionNotFoundError):
        await at.history.query_history(HistoryQuery("chat"))
    assert at.cache.peek("chat", 1) is None


async def test_a_long_tail_is_trimmed_and_stays_right(at: Setting) -> None:
    at.cache.depth = 10
    await at.say("0")
    await at.read(1)
    for number in range(1, 100):
        await at.say(str(number))
        assert await at.read(3, "cached") == [str(n) for n in range(max(0, number - 2), number + 1)]

    assert at.storage.tails == 1
    assert await at.read(100) == [str(n) for n in range(100)]


# -- time


async def test_cached_trusts_a_tail_for_its_ttl_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever the jitter draws: its ends.
    for drawn in (0.0, 1.0):
        monkeypatch.setattr(random, "random", lambda drawn=drawn: drawn)
        async with Setting(ttl=100) as at:
            await at.say("one")
            await at.read(level="cached")
            await at.say("two", by=at.other)
            at.clock.now += 79
            assert await at.read(level="cached") == ["one"]
            at.clock.now += 21
            assert await at.read(level="cached") == ["one", "two"]


async def test_a_load_after_the_ttl_begins_a_new_one(at: Setting) -> None:
    await at.say("one")
    await at.read(level="cached")
    at.clock.now += 2 * at.cache.ttl
    assert at.cache.peek("chat", 1) is None
    counts = at.since()

    for _ in range(3):
        assert await at.read(level="cached") == ["one"]

    assert counts() == (2, 1)
    assert at.cache.peek("chat", 1) is not None


async def test_a_validated_read_does_not_mind_the_ttl(at: Setting) -> None:
    await at.say("one")
    await at.read()
    at.clock.now += 2 * at.cache.ttl

    assert await at.read() == ["one"]
    assert at.storage.tails == 1


async def test_ttls_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Setting(ttl=100) as at:
        for number in range(100):
            name = f"chat-{number}"
            await at.history.record_message(name, "user", "x")
            await at.history.last(name)
        at.clock.now += 95
        live = [at.cache.peek(f"chat-{number}", 1) is not None for number in range(100)]
        assert 0 < sum(live) < 100


# -- bounds


async def test_the_least_recently_used_goes_first() -> None:
    async with Setting() as at:
        for name in "abc":
            await at.history.record_message(name, "user", "x" * 1000)
            await at.history.last(name)
        one = at.cache.statistics().bytes // 3
    async with Setting(max_bytes=3 * one + one // 2) as at:
        for name in "abc":
            await at.history.record_message(name, "user", "x" * 1000)
            await at.history.last(name)
        await at.history.last("a")
        await at.history.record_message("d", "user", "x" * 1000)
        await at.history.last("d")

        held = {name for name in "abcd" if at.cache.peek(name, 1) is not None}
        counts = at.cache.statistics()
    assert held == {"a", "c", "d"}
    assert (counts.sessions, counts.evictions) == (3, 1)


async def test_bytes_are_bounded_whatever_is_written() -> None:
    async with Setting(max_bytes=20_000) as at:
        for number in range(200):
            name = f"chat-{number % 7}"
            await at.history.record_message(name, "user", "x" * (number * 37 % 3000))
            await at.history.last(name, 50)
            assert at.cache.statistics().bytes <= 20_000
        await at.history.record_message("big", "user", "x" * 50_000)
        assert len(await at.history.last("big")) == 1
        assert at.cache.peek("big", 1) is None
        assert at.cache.statistics().bytes <= 20_000


@pytest.mark.parametrize(
    "options",
    [{"max_bytes": -1}, {"depth": 0}, {"ttl": 0}, {"ttl": -1}, {"ttl": float("inf")},
     {"ttl": float("nan")}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TailCache(**options)


def test_a_cache_serves_one_store() -> None:
    cache = TailCache()
    storage = MemoryStorage()
    AsyncHistoryManager(storage, cache)
    AsyncHistoryManager(storage, cache)

    with pytest.raises(ConfigurationError, match="one for each"):
        AsyncHistoryManager(MemoryStorage(), cache)


async def test_a_cache_without_room_still_answers() -> None:
    async with Setting(max_bytes=0) as at:
        await at.say("one")
        assert await at.read() == ["one"]
        await at.say("two")
        assert await at.read(level="cached") == ["one", "two"]


async def test_clear_forgets_everything(at: Setting) -> None:
    await at.say("one")
    await at.read()

    at.cache.clear()

    assert at.cache.peek("chat", 1) is None
    assert at.cache.statistics().bytes == 0
    assert await at.read() == ["one"]


# -- peek


async def test_peek_answers_from_what_is_held_without_a_loop(at: Setting) -> None:
    at.cache.depth = 3
    await at.say(*"abcdef")
    assert at.cache.peek("chat", 1) is None
    await at.read(3)
    counts = at.since()
    found: list[Any] = []

    def look() -> None:
        found.extend(at.cache.peek("chat", count) for count in (0, 1, 3, 4))

    thread = threading.Thread(target=look)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)

    assert [None if r is None else [m.text for m in r] for r in found] == [
        [], ["f"], ["d", "e", "f"], None,
    ]  # fmt: skip
    assert counts() == (3, 0)
