"""Locks that another process holds: for less and for more than a store waits, and for ever."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import apsw
import pytest

from asynchistory import AsyncHistoryManager, BusyError, SQLiteStorage
from tests.faults.batches import all_pieces, append
from tests.faults.children import Child, say, wait_for_go
from tests.faults.report import Report, judge

pytestmark = pytest.mark.anyio


def hold_a_lock(path: str, statement: str) -> None:
    """Take a lock, and keep it until told to go."""
    connection = apsw.Connection(path)
    connection.execute(statement).fetchall()
    say("locked")
    wait_for_go()
    connection.close()


@contextmanager
def locked(path: Path, statement: str = "BEGIN IMMEDIATE") -> Iterator[Child]:
    """Another process holds a lock in this block, unless it is told to go before."""
    child = Child("tests.faults.test_locks:hold_a_lock", path, statement)
    assert child.listen(1), child.end()
    try:
        yield child
    finally:
        child.go()
        child.end()


@pytest.fixture
async def history(tmp_path: Path) -> AsyncHistoryManager:
    """One that waits long for a lock, over a file that exists."""
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        await append(history, "chat", "old", 1)
    return AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db"), level="fresh")


async def turns(count: int = 100) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def test_appends_wait_for_a_lock_that_is_let_go_while_reads_go_on(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    acks = []

    async def write(name: str) -> None:
        acks.append(await append(history, "chat", name, 2))

    async with history:
        with locked(tmp_path / "x.db") as other:
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(write, f"new-{number}")
                await turns()
                assert acks == []
                assert len(await history.last("chat", 100)) == 1
                other.go()
        assert len(acks) == 20
        report = Report("locks", 1)
        judge(report, acks, await all_pieces(history))
    assert not report.found, report.messages


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_the_lock_of_a_process_that_is_killed_is_free(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    async with history:
        with locked(tmp_path / "x.db", "BEGIN IMMEDIATE; DELETE FROM records") as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append, history, "chat", "new", 1)
                await turns()
                other.process.send_signal(signal.SIGKILL)
        assert len(await history.last("chat")) == 2


async def test_a_lock_that_stays_is_an_error_for_each_that_waits(tmp_path: Path) -> None:
    refused = []

    async def write(history: AsyncHistoryManager, name: str) -> None:
        with pytest.raises(BusyError, match="try again") as caught:
            await append(history, "chat", name, 1)
        refused.append(str(caught.value))

    storage = SQLiteStorage(tmp_path / "x.db", lock_timeout=0.02)
    async with AsyncHistoryManager(storage, level="fresh") as history:
        await append(history, "chat", "old", 1)
        with locked(tmp_path / "x.db"):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(write, history, f"new-{number}")
        assert len(refused) == 20
        assert await append(history, "chat", "after", 1) == ("chat", "after", 1, 2)


async def test_a_new_file_that_another_process_locks_is_waited_for(tmp_path: Path) -> None:
    opened = anyio.Event()
    history = AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db"))

    async def use() -> None:
        async with history:
            opened.set()
            await append(history, "chat", "new", 1)

    with locked(tmp_path / "x.db", "BEGIN EXCLUSIVE") as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            await turns()
            assert not opened.is_set()
            other.go()
    assert opened.is_set()


async def test_a_new_file_that_stays_locked_is_an_error_and_opens_later(tmp_path: Path) -> None:
    history = AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db", lock_timeout=0.02))
    with locked(tmp_path / "x.db", "BEGIN EXCLUSIVE"):
        for _ in range(2):
            with pytest.raises(BusyError, match=r"x\.db"):
                await history.__aenter__()

    async with history:
        assert (await append(history, "chat", "new", 1)).first_seq == 1
