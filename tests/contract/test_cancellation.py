"""An append completes or is cancelled, never both, however and whenever it is cancelled.

Where in its life an append is hit is varied by a number of turns that the loop takes first,
up to well past the longest append: no clock is involved.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import anyio
import anyio.lowlevel
import pytest
import trio

from asynchistory import AsyncHistoryManager, HistoryQuery, Message
from tests.contract.cancelling import ROUNDS, Log, no_stray_cancellation, some_turns, turns

pytestmark = pytest.mark.anyio

WritesHeld = Callable[[], AbstractContextManager[None]]


@pytest.fixture
async def log(history: AsyncHistoryManager) -> Log:
    return Log(history)


@pytest.fixture
def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("a way of cancelling that asyncio alone has")


@pytest.fixture
def trio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("a way of cancelling that trio alone has")


async def ended(task: asyncio.Task[None]) -> None:
    done, _ = await asyncio.wait([task], timeout=30)
    assert done, "the cancellation is lost: the task goes on waiting"


# -- asyncio's own ways


@pytest.mark.usefixtures("asyncio_only")
async def test_task_cancel(log: Log) -> None:
    draw = random.Random(1)
    for _ in range(ROUNDS):
        task = asyncio.create_task(log.append())
        await turns(some_turns(draw))
        task.cancel()
        await ended(task)
        await no_stray_cancellation()
    await log.check()
    assert len(log.returned) + len(log.cancelled) >= ROUNDS // 2


@pytest.mark.usefixtures("asyncio_only")
async def test_task_cancel_is_delivered_later_if_the_append_completed(log: Log) -> None:
    draw = random.Random(2)
    outcomes: Counter[tuple[bool, bool]] = Counter()

    async def work() -> None:
        stored = later = False
        try:
            await log.append()
            stored = True
            await asyncio.Event().wait()  # never set: only the cancellation ends it
        except asyncio.CancelledError:
            later = stored
            raise
        finally:
            outcomes[stored, later] += 1

    for _ in range(ROUNDS):
        task = asyncio.create_task(work())
        await turns(1 + some_turns(draw))
        task.cancel()
        await ended(task)
        assert task.cancelled()

    await log.check()
    assert set(outcomes) <= {(False, False), (True, True)}
    assert outcomes.total() == ROUNDS


@pytest.mark.usefixtures("asyncio_only")
async def test_asyncio_timeout(log: Log) -> None:
    draw = random.Random(3)
    current = asyncio.current_task()
    assert current is not None
    for _ in range(ROUNDS):
        returned = len(log.returned)
        try:
            async with asyncio.timeout(None) as scope:
                expiry = asyncio.create_task(expire(scope, some_turns(draw)))
                await log.append()
        except TimeoutError:
            assert len(log.returned) == returned
        else:
            assert len(log.returned) == returned + 1
        assert current.cancelling() == 0
        await no_stray_cancellation()
        await expiry
    await log.check()


async def expire(scope: asyncio.Timeout, after: int) -> None:
    await turns(after)
    with suppress(RuntimeError):  # the block has ended
        scope.reschedule(asyncio.get_running_loop().time())


@pytest.mark.usefixtures("asyncio_only")
async def test_a_failing_asyncio_task_group(log: Log) -> None:
    draw = random.Random(4)

    async def fail(after: int) -> None:
        await turns(after)
        raise ArithmeticError

    for _ in range(ROUNDS // 5):
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(log.append())
                group.create_task(fail(some_turns(draw)))
        except* ArithmeticError:
            pass
        await no_stray_cancellation()
    await log.check()


@pytest.mark.usefixtures("asyncio_only")
async def test_a_task_that_is_cancelled_again_and_again(log: Log) -> None:
    draw = random.Random(5)
    for _ in range(ROUNDS):
        task = asyncio.create_task(log.append())
        await turns(1 + draw.randrange(30))
        while not task.done():
            task.cancel()
            await turns(1)
        await no_stray_cancellation()
    await log.check()


# -- trio's own


@pytest.mark.usefixtures("trio_only")
async def test_trio_cancel_scopes(log: Log) -> None:
    draw = random.Random(6)

    async def cancel(scope: trio.CancelScope, after: int) -> None:
        await turns(after)
        scope.cancel()

    for _ in range(ROUNDS):
        returned, cancelled = len(log.returned), len(log.cancelled)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope, some_turns(draw))
                await log.append()
            assert len(log.returned) + len(log.cancelled) == returned + cancelled + 1
            nursery.cancel_scope.cancel()
        await no_stray_cancellation()
    await log.check()


@pytest.mark.usefixtures("trio_only")
async def test_an_append_that_completed_in_a_cancelled_scope_is_cancelled_at_the_next_wait(
    log: Log,
) -> None:
    draw = random.Random(7)
    for _ in range(ROUNDS):
        async with trio.open_nursery() as nursery:
            stored = reached = False

            async def work(nursery: trio.Nursery) -> None:
                nonlocal stored, reached
                await log.append()
                stored = True
                await trio.sleep_forever()
                reached = True  # pragma: no cover

            nursery.start_soon(work, nursery)
            await turns(some_turns(draw))
            nursery.cancel_scope.cancel()
        assert not reached
    await log.check()


# -- AnyIO's, on both


async def test_anyio_cancel_scopes(log: Log) -> None:
    draw = random.Random(8)
    for _ in range(ROUNDS):
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def work(scope: anyio.CancelScope, done: anyio.Event) -> None:
                with scope:
                    await log.append()
                await no_stray_cancellation()
                done.set()

            scope = anyio.CancelScope()
            tasks.start_soon(work, scope, done)
            await turns(some_turns(draw))
            scope.cancel()
            await done.wait()
    await log.check()


async def test_a_cancelled_anyio_task_group(log: Log) -> None:
    draw = random.Random(9)
    for _ in range(ROUNDS // 5):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(log.append)
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        await no_stray_cancellation()
    await log.check()


async def test_deadlines_that_have_passed(log: Log) -> None:
    for _ in range(ROUNDS // 5):
        returned = len(log.returned)
        with anyio.move_on_after(0) as scope:
            await log.append()
        assert scope.cancelled_caught == (len(log.returned) == returned)
        with suppress(TimeoutError), anyio.fail_after(0):
            await log.append()
        await no_stray_cancellation()
    await log.check()


async def test_nested_scopes_of_which_the_inner_is_cancelled(log: Log) -> None:
    draw = random.Random(10)

    async def work(inner: anyio.CancelScope, done: anyio.Event) -> None:
        with anyio.CancelScope() as outer:
            with inner:
                await log.append()
            await no_stray_cancellation()
            await log.append()
        assert not outer.cancelled_caught
        done.set()

    for _ in range(ROUNDS):
        async with anyio.create_task_group() as tasks:
            inner, done = anyio.CancelScope(), anyio.Event()
            tasks.start_soon(work, inner, done)
            await turns(some_turns(draw))
            inner.cancel()
            await done.wait()
    await log.check()
    assert len(log.returned) >= ROUNDS


async def test_a_shielded_append_is_not_cancelled(log: Log) -> None:
    draw = random.Random(11)
    for _ in range(ROUNDS // 5):
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                with anyio.CancelScope(shield=True):
                    await log.append()

            tasks.start_soon(work)
            await turns(1 + some_turns(draw))
            tasks.cancel_scope.cancel()
    await log.check()
    assert log.cancelled == []


async def cancel_after(scope: anyio.CancelScope, after: int) -> None:
    await turns(after)
    scope.cancel()


async def write_unless_cancelled(log: Log, after: float) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            if after is not math.inf:
                tasks.start_soon(cancel_after, scope, int(after))
            await log.append()
            tasks.cancel_scope.cancel()
    await no_stray_cancellation()


async def test_a_storm(log: Log) -> None:
    """Many writers at once, each cancelled at a moment of its own or not at all."""
    draw = random.Random(12)
    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(25):
                after = math.inf if draw.random() < 0.2 else draw.randrange(60)
                tasks.start_soon(write_unless_cancelled, log, after)
    await log.check()
    assert log.returned


async def test_a_storm_while_the_store_is_held_now_and_then(
    log: Log, writes_held: WritesHeld
) -> None:
    draw = random.Random(15)
    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            with writes_held():
                for _ in range(25):
                    after = math.inf if draw.random() < 0.2 else draw.randrange(60)
                    tasks.start_soon(write_unless_cancelled, log, after)
                await turns(draw.randrange(60))
    await log.check()
    assert len(log.returned) > 50
    assert len(log.cancelled) > 50


async def test_what_waits_in_the_queue_is_cancelled_at_once(
    log: Log, writes_held: WritesHeld
) -> None:
    await log.append()
    with writes_held():
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(log.append)
            await turns(20)
            tasks.cancel_scope.cancel()
        assert len(log.cancelled) == 10

    assert len(log.returned) == 1
    await log.check()


async def test_a_key_makes_a_cancelled_append_safe_to_repeat(
    history: AsyncHistoryManager,
) -> None:
    draw = random.Random(13)
    for number in range(ROUNDS // 3):
        message = Message.of("user", str(number))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: history.append("chat", message, idempotency_key=str(number)))  # noqa: B023
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        await history.append("chat", message, idempotency_key=str(number))

    page = await history.query_history(HistoryQuery("chat", limit=1000))
    assert [record.text for record in page] == [str(n) for n in range(ROUNDS // 3)]


async def test_the_cache_shows_what_a_storm_left(history: AsyncHistoryManager) -> None:
    draw = random.Random(14)
    cached = AsyncHistoryManager(history.storage)
    await cached.append("chat", Message.of("user", "first"))
    log = Log(cached)
    for _ in range(ROUNDS // 3):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(log.append)
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        fresh = await cached.last("chat", 1000, level="fresh")
        assert await cached.last("chat", 1000, level="validated") == fresh
        assert await cached.last("chat", 1000, level="cached") == fresh
