"""Waits that end with a known outcome, on both loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
import trio

from asynchistory import NoEventLoopError
from asynchistory.runs import Waiter, checkpoint_if_cancelled, current_run, wake

pytestmark = pytest.mark.anyio

Cancelled = (asyncio.CancelledError, trio.Cancelled)


def yes() -> bool:
    return True


def no() -> bool:
    return False


def never() -> bool:
    raise AssertionError("nobody cancelled")


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


async def from_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)


class Waits:
    """Tasks that wait, and how that ended."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.tasks = tasks
        self.ended: list[str] = []
        self.waiters: dict[str, Waiter] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def start(self, name: str, withdraw: Callable[[], bool] = never) -> Waiter:
        self.tasks.start_soon(self._wait, name, withdraw)
        await settle()
        return self.waiters[name]

    async def _wait(self, name: str, withdraw: Callable[[], bool]) -> None:
        with anyio.CancelScope() as self.scopes[name]:
            self.waiters[name] = Waiter()
            try:
                await self.waiters[name].wait(withdraw)
            except Cancelled:
                self.ended.append(f"{name} cancelled")
                raise
            self.ended.append(f"{name} done")
            await anyio.lowlevel.checkpoint()
            self.ended.append(f"{name} went on")


# -- the run


async def test_a_run_is_the_same_object_throughout(anyio_backend_name: str) -> None:
    run = current_run()
    await anyio.lowlevel.checkpoint()

    assert current_run() is run
    if anyio_backend_name == "asyncio":
        assert run is asyncio.get_running_loop()
    else:
        assert run is trio.lowlevel.current_trio_token()


def test_without_a_loop_the_remedy_is_named() -> None:
    for call in (current_run, Waiter):
        with pytest.raises(NoEventLoopError, match="asynchistory_compat"):
            call()


async def test_a_worker_thread_has_no_run() -> None:
    with pytest.raises(NoEventLoopError):
        await anyio.to_thread.run_sync(current_run)


async def test_two_runs_are_two_objects(anyio_backend_name: str) -> None:
    async def run() -> object:
        return current_run()

    def other() -> object:
        return anyio.run(run, backend=anyio_backend_name)

    assert await anyio.to_thread.run_sync(other) is not current_run()


# -- being woken


async def test_a_task_is_woken_from_a_thread() -> None:
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        waiter = await waits.start("a")
        assert waits.ended == []

        await from_thread(lambda: wake([waiter]))

    assert waits.ended == ["a done", "a went on"]


async def test_a_task_is_woken_from_its_own_loop() -> None:
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        wake([await waits.start("a")])

    assert waits.ended == ["a done", "a went on"]


async def test_from_its_own_loop_a_task_is_woken_without_a_turn_of_it() -> None:
    async with anyio.create_task_group() as tasks:
        waiter = await Waits(tasks).start("a")
        wake([waiter])

        assert waiter.done


async def test_a_wait_that_was_woken_before_it_began_ends_at_once() -> None:
    waiter = Waiter()
    await from_thread(lambda: wake([waiter]))
    await settle()

    await waiter.wait(never)

    assert waiter.done


async def test_those_of_one_loop_are_woken_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    posts: list[int] = []

    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        waiters = [await waits.start(str(number)) for number in range(10)]
        kind = type(waiters[0].waits)
        post = kind.post
        monkeypatch.setattr(
            kind, "post", lambda self, group: (posts.append(len(group)), post(self, group))
        )
        await from_thread(lambda: wake(iter(waiters)))

    assert posts == [10]
    assert sorted(waits.ended) == sorted(
        f"{n} {end}" for n in range(10) for end in ("done", "went on")
    )


async def test_tasks_of_several_loops_are_woken_together() -> None:
    waiters: list[Waiter] = []
    ready = threading.Semaphore(0)
    ended: list[str] = []

    async def wait(name: str) -> None:
        waiter = Waiter()
        waiters.append(waiter)
        ready.release()
        await waiter.wait(never)
        ended.append(name)

    threads = [
        threading.Thread(target=lambda name=name: anyio.run(wait, name, backend=name), daemon=True)
        for name in ("asyncio", "trio", "asyncio", "trio")
    ]

    def work() -> None:
        for thread in threads:
            thread.start()
        for _ in threads:
            assert ready.acquire(timeout=30)
        wake(waiters)
        for thread in threads:
            thread.join(30)

    await anyio.to_thread.run_sync(work)

    assert sorted(ended) == ["asyncio", "asyncio", "trio", "trio"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_run_that_is_over_does_not_keep_others_from_being_woken(backend: str) -> None:
    async def leave_behind() -> Waiter:
        return Waiter()

    gone = await anyio.to_thread.run_sync(lambda: anyio.run(leave_behind, backend=backend))
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        here = await waits.start("here")
        wake([gone, here])

    assert waits.ended == ["here done", "here went on"]


# -- being cancelled


async def test_a_wait_that_can_be_withdrawn_is_cancelled() -> None:
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        await waits.start("a", yes)
        waits.scopes["a"].cancel()
        await settle()

        assert waits.ended == ["a cancelled"]


async def test_a_wait_that_cannot_be_withdrawn_goes_on_to_its_outcome() -> None:
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        waiter = await waits.start("a", no)
        waits.scopes["a"].cancel()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert waits.ended == []

        await from_thread(lambda: wake([waiter]))

    # It returned, and the cancellation came at the next wait.
    assert waits.ended == ["a done"]
    assert waits.scopes["a"].cancelled_caught


async def test_a_cancellation_that_comes_with_the_outcome_loses() -> None:
    def withdraw() -> bool:
        return asked.append(True) or False  # type: ignore[func-returns-value]

    asked: list[bool] = []
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        waiter = await waits.start("a", withdraw)
        wake([waiter])
        waits.scopes["a"].cancel()

    assert waits.ended == ["a done"]


async def test_a_withdrawn_waiter_may_still_be_woken() -> None:
    async with anyio.create_task_group() as tasks:
        waits = Waits(tasks)
        waiter = await waits.start("a", yes)
        waits.scopes["a"].cancel()
        await settle()
        wake([waiter])
        await settle()

    assert waits.ended == ["a cancelled"]


async def test_a_wait_in_a_cancelled_scope_is_withdrawn_at_once() -> None:
    asked: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        waiter = Waiter()
        await waiter.wait(lambda: not asked.append("withdraw"))  # type: ignore[func-returns-value]
        asked.append("went on")

    assert asked == ["withdraw"]
    assert scope.cancelled_caught


async def test_no_cancellation_outlives_its_scope() -> None:
    async with anyio.create_task_group() as tasks:
        ended: list[str] = []
        waiters: list[Waiter] = []
        scope = anyio.CancelScope()

        async def work() -> None:
            with scope:
                waiters.append(Waiter())
                await waiters[0].wait(no)
                ended.append("returned")
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            ended.append("went on")

        tasks.start_soon(work)
        await settle()
        scope.cancel()
        await anyio.lowlevel.checkpoint()
        wake(waiters)

    assert ended == ["returned", "went on"]


async def test_checkpoint_if_cancelled_raises_on_trio_alone(anyio_backend_name: str) -> None:
    await checkpoint_if_cancelled()
    passed = False
    with anyio.CancelScope() as scope:
        scope.cancel()
        await checkpoint_if_cancelled()
        passed = True

    assert passed == (anyio_backend_name == "asyncio")


# -- asyncio's own ways of cancelling


def start_task(withdraw: Callable[[], bool], ended: list[str]) -> tuple[asyncio.Task[None], list]:
    waiters: list[Waiter] = []

    async def work() -> None:
        waiters.append(Waiter())
        try:
            await waiters[0].wait(withdraw)
            ended.append("returned")
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(f"cancelled {error.args}")
            raise

    return asyncio.create_task(work()), waiters


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_task_that_returned_is_cancelled_at_its_next_await() -> None:
    ended: list[str] = []
    task, waiters = start_task(no, ended)
    await settle()
    task.cancel("why")
    await settle()
    assert (ended, task.cancelling()) == ([], 1)

    wake(waiters)
    done, _ = await asyncio.wait([task], timeout=30)
    assert done

    assert ended == ["returned", "cancelled ('why',)"]
    assert task.cancelled()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_ends_with_its_wait_is_not_cancelled() -> None:
    waiters: list[Waiter] = []

    async def work() -> str:
        waiters.append(Waiter())
        await waiters[0].wait(no)
        return "result"

    task = asyncio.create_task(work())
    await settle()
    task.cancel()
    await settle()
    wake(waiters)

    assert await task == "result"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_timeout_that_ends_right_after_leaves_no_stray_cancellation() -> None:
    waiters: list[Waiter] = []
    ended: list[str] = []

    async def work() -> None:
        async with asyncio.timeout(None) as scope:
            waiters.append(Waiter())
            scope.reschedule(asyncio.get_running_loop().time())
            await waiters[0].wait(no)
            assert scope.expired()
            ended.append("returned")
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        ended.append("went on")

    task = asyncio.create_task(work())
    while not task.cancelling():
        await anyio.lowlevel.checkpoint()
    wake(waiters)
    await task

    assert ended == ["returned", "went on"]
