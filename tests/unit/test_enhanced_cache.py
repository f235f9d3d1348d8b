"""The in-memory cache for legacy code: bounds, expiry, one load at a time, on any loop."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from anyio.lowlevel import checkpoint

from asynchistory.cache.enhanced import EnhancedCacheManager
from asynchistory.errors import (
    AsyncHistoryError,
    ConfigurationError,
    InvalidInputError,
    NoEventLoopError,
)

BAD_TTLS: list[Any] = [0, -1, -0.0, math.nan, math.inf, -math.inf, True, "1", 10**400]


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> EnhancedCacheManager:
    return EnhancedCacheManager(max_size=3, clock=clock)


class Gate:
    """A factory that waits until it is told to go on, and counts."""

    def __init__(self, outcome: Any = "value") -> None:
        self.outcome = outcome
        self.calls = 0
        self.started = anyio.Event()
        self.open = anyio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        await self.open.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def settle() -> None:
    """Let all tasks run until they wait for something."""
    for _ in range(20):
        await checkpoint()


class Asker:
    """A task that asks for a key, and can be cancelled."""

    def __init__(
        self, cache: EnhancedCacheManager, factory: Callable[[], Any], key: str = "k"
    ) -> None:
        self.scope = anyio.CancelScope()
        self.result: Any = None
        self.error: Exception | None = None
        self._ask: Callable[[], Awaitable[Any]] = lambda: cache.get_or_set(key, factory)

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.result = await self._ask()
            except Exception as error:
                self.error = error


# -- plain values ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_is_set_is_got(cache: EnhancedCacheManager) -> None:
    value = object()
    assert await cache.get("k") is None
    assert await cache.get("k", 1) == 1
    await cache.set("k", value)
    assert await cache.get("k") is value
    assert cache.peek("k") is value
    assert cache.peek("other", 2) == 2


@pytest.mark.anyio
async def test_remove_says_whether_there_was_a_value(
    cache: EnhancedCacheManager, clock: Clock
) -> None:
    await cache.set("k", None)
    assert await cache.remove("k") is True
    assert await cache.remove("k") is False
    await cache.set("k", 1, ttl=5)
    clock.now += 5
    assert await cache.remove("k") is False


@pytest.mark.anyio
async def test_the_least_recently_used_goes(cache: EnhancedCacheManager) -> None:
    for key in "abc":
        await cache.set(key, key)
    await cache.get("a")
    await cache.set("b", "B")
    await cache.set("d", "d")
    assert [cache.peek(key) for key in "abcd"] == ["a", "B", None, "d"]
    assert cache.get_stats().evictions == 1


@pytest.mark.anyio
async def test_looking_for_the_expired_uses_nothing(cache: EnhancedCacheManager) -> None:
    for key in "abc":
        await cache.set(key, key)
    await cache.get("a")
    await cache.cleanup_expired()
    cache.get_cache_info()
    await cache.set("d", "d")
    assert [cache.peek(key) for key in "abcd"] == ["a", None, "c", "d"]


@pytest.mark.anyio
async def test_a_value_expires_at_its_time(cache: EnhancedCacheManager, clock: Clock) -> None:
    await cache.set("k", 1, ttl=5)
    clock.now += 4.999
    assert await cache.get("k") == 1
    clock.now += 0.001
    assert await cache.get("k") is None
    assert cache.get_stats().size == 0


@pytest.mark.anyio
async def test_a_set_never_inherits_an_old_ttl(cache: EnhancedCacheManager, clock: Clock) -> None:
    await cache.set("k", 1, ttl=5)
    await cache.set("k", 2)
    clock.now += 1e9
    assert await cache.get("k") == 2


@pytest.mark.anyio
async def test_the_default_ttl(clock: Clock) -> None:
    cache = EnhancedCacheManager(default_ttl=5, clock=clock)
    await cache.set("short", 1, ttl=1)
    await cache.set("default", 1)
    await cache.get_or_set("loaded", lambda: 1)
    await cache.get_or_set("long", lambda: 1, ttl=10)
    clock.now += 1
    assert [cache.peek(key) for key in ("short", "default", "loaded", "long")] == [None, 1, 1, 1]
    clock.now += 4
    assert [cache.peek(key) for key in ("default", "loaded", "long")] == [None, None, 1]


@pytest.mark.anyio
async def test_cleanup_expired(cache: EnhancedCacheManager, clock: Clock) -> None:
    await cache.set("a", 1, ttl=1)
    await cache.set("b", 1, ttl=2)
    await cache.set("c", 1)
    clock.now += 1
    assert await cache.cleanup_expired() == 1
    clock.now += 1
    assert await cache.cleanup_expired() == 1
    assert await cache.cleanup_expired() == 0
    assert cache.peek("c") == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("session:*", ["session:1", "session:22"]),
        ("session:?", ["session:1"]),
        ("[st]ession:1", ["session:1"]),
        ("*", ["session:1", "session:22", "Session:1"]),
        ("ession", []),
    ],
)
async def test_remove_by_pattern(pattern: str, gone: list[str]) -> None:
    cache = EnhancedCacheManager()
    keys = ["session:1", "session:22", "Session:1"]
    for key in [*keys, ("session:1", 2)]:
        await cache.set(key, 1)
    assert await cache.remove_by_pattern(pattern) == len(gone)
    assert [key for key in keys if cache.peek(key) is None] == gone
    assert cache.peek(("session:1", 2)) == 1


@pytest.mark.anyio
async def test_clear(cache: EnhancedCacheManager) -> None:
    await cache.set("a", 1)
    await cache.set("b", 1)
    assert await cache.clear() == 2
    assert await cache.clear() == 0
    assert cache.peek("a") is None
    assert cache.get_stats().sets == 2


@pytest.mark.anyio
async def test_statistics(cache: EnhancedCacheManager, clock: Clock) -> None:
    for key in "abcd":
        await cache.set(key, key, ttl=5)
    await cache.get("a")
    await cache.get("b")
    cache.peek("c")
    await cache.get_or_set("d", lambda: 1)
    clock.now += 5
    cache.peek("d")
    await cache.cleanup_expired()
    await cache.get_or_set("e", lambda: 1)
    assert cache.get_stats() == (3, 3, 5, 1, 3, 1)
    assert cache.get_stats()._fields == (
        "hits", "misses", "sets", "evictions", "expirations", "size",
    )  # fmt: skip


@pytest.mark.anyio
async def test_info(clock: Clock) -> None:
    cache = EnhancedCacheManager(max_size=7, default_ttl=5, clock=clock)
    await cache.set("SECRET", "SECRET", ttl=1)
    await cache.set("b", 1)
    clock.now += 1
    assert cache.get_cache_info() == {
        "max_size": 7, "default_ttl": 5, "size": 2, "expired": 1, "loading": 0,
    }  # fmt: skip
    assert "SECRET" not in repr(cache)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "3", None])
def test_a_useless_size_is_refused(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_size"):
        EnhancedCacheManager(max_size=size)


@pytest.mark.anyio
@pytest.mark.parametrize("ttl", BAD_TTLS)
async def test_a_useless_ttl_is_refused(cache: EnhancedCacheManager, ttl: Any) -> None:
    with pytest.raises(InvalidInputError, match="ttl"):
        EnhancedCacheManager(default_ttl=ttl)
    await cache.set("k", 1)
    with pytest.raises(InvalidInputError, match="ttl"):
        await cache.set("k", 2, ttl=ttl)
    with pytest.raises(InvalidInputError, match="ttl"):
        await cache.get_or_set("k", lambda: 2, ttl=ttl)
    assert cache.peek("k") == 1


def test_loading_needs_a_loop(cache: EnhancedCacheManager) -> None:
    with pytest.raises(NoEventLoopError, match="event loop"):
        cache.get_or_set("k", lambda: 1).send(None)


# -- one load at a time ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_factory_may_be_sync_or_async(cache: EnhancedCacheManager) -> None:
    async def later() -> str:
        await checkpoint()
        return "async"

    assert await cache.get_or_set("a", lambda: "sync") == "sync"
    assert await cache.get_or_set("b", later) == "async"
    assert (cache.peek("a"), cache.peek("b")) == ("sync", "async")


@pytest.mark.anyio
async def test_none_is_a_value(cache: EnhancedCacheManager) -> None:
    assert await cache.get_or_set("k", lambda: None) is None
    assert await cache.get_or_set("k", lambda: 1) is None


@pytest.mark.anyio
async def test_all_who_ask_share_one_load(cache: EnhancedCacheManager) -> None:
    gate = Gate(outcome=object())
    askers = [Asker(cache, gate) for _ in range(50)]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
        await gate.started.wait()
        await settle()
        assert cache.get_cache_info()["loading"] == 1
        gate.open.set()
    assert {id(asker.result) for asker in askers} == {id(gate.outcome)}
    assert gate.calls == 1
    assert cache.get_cache_info()["loading"] == 0


@pytest.mark.anyio
async def test_keys_load_side_by_side(cache: EnhancedCacheManager) -> None:
    gates = {"a": Gate("A"), "b": Gate("B")}
    askers = [Asker(cache, gate, key) for key, gate in gates.items()]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
        await settle()
        assert cache.get_cache_info()["loading"] == 2
        gates["b"].open.set()
        await settle()
        assert cache.peek("b") == "B"
        gates["a"].open.set()
    assert [asker.result for asker in askers] == ["A", "B"]


@pytest.mark.anyio
async def test_an_error_reaches_all_who_waited_and_is_not_cached(
    cache: EnhancedCacheManager,
) -> None:
    gate = Gate(outcome=LookupError("down"))
    askers = [Asker(cache, gate) for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
        await settle()
        gate.open.set()
    assert [asker.error for asker in askers] == [gate.outcome] * 5
    assert gate.calls == 1
    assert await cache.get_or_set("k", lambda: "up") == "up"


@pytest.mark.anyio
async def test_an_error_keeps_its_traceback_and_nothing_keeps_the_error(
    cache: EnhancedCacheManager,
) -> None:
    class DownError(Exception):
        """One that can be referred to weakly."""

    async def broken() -> None:
        await checkpoint()
        raise DownError

    async def fail() -> weakref.ref[DownError]:
        try:
            await cache.get_or_set("k", broken)
        except DownError as error:
            frames.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))
            return weakref.ref(error)
        raise AssertionError("no error")

    frames: list[str] = []
    gc.collect()
    gc.disable()
    try:
        error = await fail()
        assert "broken" in frames
        assert error() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_if_the_loader_is_cancelled_the_next_takes_over(
    cache: EnhancedCacheManager,
) -> None:
    gates = [Gate("first"), Gate("second")]
    askers = [Asker(cache, gates[0]), *(Asker(cache, gates[1]) for _ in range(4))]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
            await settle()
        askers[0].scope.cancel()
        await settle()
        assert (gates[0].calls, gates[1].calls) == (1, 1)
        gates[1].open.set()
    assert [asker.result for asker in askers] == [None] + ["second"] * 4
    assert all(asker.error is None for asker in askers)
    assert cache.peek("k") == "second"


@pytest.mark.anyio
async def test_any_number_of_loaders_may_be_cancelled(cache: EnhancedCacheManager) -> None:
    gate = Gate()
    askers = [Asker(cache, gate) for _ in range(6)]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
        await settle()
        for asker in askers[1::2]:  # among them those who wait and heirs who have not run yet
            asker.scope.cancel()
        for asker in askers[0:4:2]:
            asker.scope.cancel()
        await settle()
        gate.open.set()
    assert [asker.result for asker in askers].count("value") == 1
    assert askers[4].result == "value"
    assert cache.get_cache_info()["loading"] == 0


@pytest.mark.anyio
async def test_if_all_are_cancelled_nothing_is_left(cache: EnhancedCacheManager) -> None:
    gate = Gate()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(Asker(cache, gate))
        await settle()
        tasks.cancel_scope.cancel()
    assert cache.get_cache_info()["loading"] == 0
    assert await cache.get_or_set("k", lambda: "new") == "new"


@pytest.mark.anyio
async def test_cancelling_one_who_waits_disturbs_nobody(cache: EnhancedCacheManager) -> None:
    gate = Gate()
    askers = [Asker(cache, gate) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for asker in askers:
            tasks.start_soon(asker)
            await settle()
        askers[1].scope.cancel()
        await settle()
        gate.open.set()
    assert [asker.result for asker in askers] == ["value", None, "value"]
    assert gate.calls == 1


async def set_it(cache: EnhancedCacheManager) -> Any:
    return await cache.set("k", "written")


async def remove_it(cache: EnhancedCacheManager) -> Any:
    return await cache.remove("k")


async def remove_it_by_pattern(cache: EnhancedCacheManager) -> Any:
    return await cache.remove_by_pattern("k*")


async def clear_it(cache: EnhancedCacheManager) -> Any:
    return await cache.clear()


@pytest.mark.anyio
@pytest.mark.parametrize("write", [set_it, remove_it, remove_it_by_pattern, clear_it])
async def test_a_write_detaches_a_load(
    cache: EnhancedCacheManager, write: Callable[[EnhancedCacheManager], Awaitable[Any]]
) -> None:
    old, new = Gate("old"), Gate("new")
    askers = [Asker(cache, old), Asker(cache, old), Asker(cache, new)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(askers[0])
        tasks.start_soon(askers[1])
        await settle()
        assert not await write(cache)
        written = cache.peek("k")
        tasks.start_soon(askers[2])
        await settle()
        old.open.set()
        await settle()
        assert cache.peek("k") == written
        assert cache.get_cache_info()["loading"] == (0 if written else 1)
        new.open.set()
    assert [asker.result for asker in askers] == ["old", "old", written or "new"]
    assert cache.get_cache_info()["loading"] == 0


# -- many loops and threads --------------------------------------------------------------------


def run_on(loop: str, main: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(main()) if loop == "asyncio" else trio.run(main)  # type: ignore[arg-type]


def test_loops_of_both_kinds_load_once_each_and_share_the_value() -> None:
    cache = EnhancedCacheManager()
    barrier = threading.Barrier(4)
    calls: list[str] = []
    results: list[list[str]] = []

    async def main(loop: str) -> list[str]:
        async def factory() -> str:
            calls.append(loop)
            await anyio.to_thread.run_sync(barrier.wait)  # every loop loads at the same time
            return "value"

        askers = [Asker(cache, factory) for _ in range(5)]
        async with anyio.create_task_group() as tasks:
            for asker in askers:
                tasks.start_soon(asker)
        return [asker.result for asker in askers]

    loops = ["asyncio", "trio", "asyncio", "trio"]

    def work(loop: str) -> None:
        results.append(run_on(loop, partial(main, loop)))

    threads = [threading.Thread(target=work, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [["value"] * 5] * 4
    assert sorted(calls) == sorted(loops)
    assert cache.get_cache_info()["loading"] == 0
    assert cache.peek("k") == "value"


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_loop_that_has_ended_is_not_kept(loop: str) -> None:
    cache = EnhancedCacheManager()
    seen: list[weakref.ref[object]] = []

    async def main() -> None:
        seen.append(weakref.ref(anyio.lowlevel.current_token().native_token))
        await cache.get_or_set("k", checkpoint)

    run_on(loop, main)
    gc.collect()
    assert seen[0]() is None


def test_threads_and_loops_at_once() -> None:
    cache = EnhancedCacheManager(max_size=20)
    errors: list[BaseException] = []

    async def main(start: int) -> None:
        for i in range(start, start + 300):
            key = f"{i % 40}"
            await cache.set(key, key)
            assert await cache.get_or_set(key, partial(str, key)) == key
            await cache.remove_by_pattern(f"{i % 7}")
            await cache.cleanup_expired()
            cache.get_cache_info()
            if i % 50 == 0:
                await cache.clear()

    def work(place: int) -> None:
        try:
            run_on("trio" if place % 2 else "asyncio", lambda: main(place * 13))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = cache.get_stats()
    assert errors == []
    assert stats.size <= 20
    assert stats.hits + stats.misses == 8 * 300
    assert stats.sets >= 8 * 300


@pytest.mark.anyio
async def test_a_value_may_use_the_cache_when_it_goes(cache: EnhancedCacheManager) -> None:
    gone = []

    class Value:
        def __del__(self) -> None:
            gone.append(cache.peek("other"))

    await cache.set("k", Value())
    await cache.set("k", Value())
    await cache.remove("k")
    await cache.set("k", Value())
    await cache.remove_by_pattern("*")
    await cache.set("k", Value())
    await cache.clear()
    for key in "kabc":
        await cache.set(key, Value(), ttl=1)
    cache._clock.now += 1  # type: ignore[attr-defined]
    cache.peek("a")
    await cache.cleanup_expired()
    assert len(gone) == 8


def test_its_errors_are_of_the_family() -> None:
    assert issubclass(InvalidInputError, AsyncHistoryError)
    assert issubclass(InvalidInputError, ValueError)
