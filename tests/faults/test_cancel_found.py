"""What the test of exits found: a cancellation that is lost between two calls that complete.

A call that cannot be taken back any more completes, and its cancellation is delivered later. If
the task is in the next such call by then, that one takes it for the caller's own affair.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import anyio
import anyio.lowlevel
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage
from asynchistory.runs import Waiter, wake
from tests.faults.batches import append
from tests.faults.places import memory_folder

pytestmark = pytest.mark.anyio


@pytest.fixture
def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has its own way, in which nothing is delivered again")


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("calls", [1, 2, 3, 4])
async def test_a_cancellation_that_several_calls_in_a_row_put_off_arrives(calls: int) -> None:
    waiters: list[Waiter] = []

    async def work() -> None:
        for _ in range(calls):
            waiters.append(Waiter())
            await waiters[-1].wait(lambda: False)  # claimed: it cannot be taken back
        await turns(1000)

    task = asyncio.create_task(work())
    await turns(1)
    task.cancel()
    for number in range(calls):
        await turns()
        wake([waiters[number]])
    await turns()

    assert task.cancelled(), "the task goes on as if nobody had cancelled it"


@pytest.mark.usefixtures("asyncio_only")
async def test_tasks_that_append_in_a_loop_end_when_they_are_cancelled() -> None:
    draw = Random(1)
    most = 300

    async def work(history: AsyncHistoryManager, name: str) -> None:
        for number in range(most):
            await append(history, f"session-{name}", f"{name}.{number}", 1)

    with memory_folder() as folder:
        async with AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db")) as history:
            for round_ in range(50):
                names = [f"{round_}-{number}" for number in range(4)]
                tasks = [asyncio.create_task(work(history, name)) for name in names]
                await turns(draw.randrange(40))
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert all(task.cancelled() for task in tasks), "one went on to its end"
