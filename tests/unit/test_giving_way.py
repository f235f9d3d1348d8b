"""A loop that is busy lets the thread that it waits for run."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asynchistory import runs
from asynchistory.runs import Waiter, wake


class Waits(runs.Waits):
    """Of no run at all."""

    async def wait(self, *_: Any) -> None:
        raise NotImplementedError

    def post(self, waiters: list[Waiter]) -> None:
        raise NotImplementedError

    def rouse(self, waiters: list[Waiter]) -> None:
        raise NotImplementedError

    def watch(self) -> None:
        raise NotImplementedError


def patience(pending: int = 1, *, late: float = 0.0) -> Waits:
    made = Waits(Waits)
    made.pending = pending
    made.arm()
    made._due += 0.0 if late else 3600.0
    made._due -= late
    return made


def test_a_late_look_waits_for_the_outcome() -> None:
    waits = patience(late=1)
    waits.PATIENCE = 30.0  # type: ignore[misc]
    done: list[str] = []

    def work() -> None:
        while waits._gate is None:
            threading.Event().wait(0.001)
        done.append("worked")
        waits.posted()

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.look()
    assert done == ["worked"]
    thread.join()


def test_a_look_in_time_does_not_wait() -> None:
    waits = patience()
    waits._give_way = lambda: pytest.fail("it blocked an idle loop")  # type: ignore[method-assign]
    assert waits.look()


def test_an_outcome_since_the_last_look_is_progress() -> None:
    waits = patience(late=1)
    waits._give_way = lambda: pytest.fail("it blocked")  # type: ignore[method-assign]
    waits.posted()
    assert waits.look()


def test_without_waits_it_stops_looking() -> None:
    assert not patience(pending=0, late=1).look()


def test_an_outcome_that_came_just_before_ends_the_wait_at_once() -> None:
    waits = patience()
    waits.PATIENCE = 30.0  # type: ignore[misc]
    waits._posts += 1
    waits._give_way()
    assert waits._gate is None


@pytest.mark.anyio
async def test_each_wait_is_counted_until_it_ends() -> None:
    counted = Waiter().waits
    assert counted.pending == 0

    async def wait(waiter: runs.Waiter) -> None:
        await waiter.wait(lambda: True)

    waiters = []

    async def start() -> None:
        waiter = Waiter()
        waiters.append(waiter)
        await wait(waiter)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(start)
        while counted.pending < 5:
            await anyio.lowlevel.checkpoint()
        wake(waiters[:2])
        while counted.pending > 3:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert counted.pending == 0


@pytest.mark.anyio
@pytest.mark.parametrize("slice_us", [0, 20, 2000])
async def test_a_wait_in_a_busy_loop_is_looked_after(
    monkeypatch: pytest.MonkeyPatch, slice_us: int
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(runs.Waits, "_give_way", lambda self: given.append(True))
    waiter = Waiter()
    async with anyio.create_task_group() as tasks:

        async def burn() -> None:
            while not given:
                end = time.perf_counter() + slice_us / 1e6
                while time.perf_counter() < end:
                    pass
                await anyio.lowlevel.checkpoint()
            wake([waiter])

        tasks.start_soon(burn)
        with anyio.fail_after(10):
            await waiter.wait(lambda: True)
    assert given
