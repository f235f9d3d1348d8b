"""A program that ends without closing its store: what returned is there, and it does end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asynchistory import AsyncHistoryManager, NotOpenError, SQLiteStorage
from tests.faults.batches import append, contents
from tests.faults.children import Child, say, wait_for_go
from tests.faults.report import LOOPS, Ack, Report, judge
from tests.faults.test_locks import locked

BACKENDS = pytest.mark.parametrize("backend", LOOPS)


def acknowledged(child: Child) -> list[Ack]:
    """What a child that ended as it should has said."""
    assert child.end() == (0, "")
    acks = []
    for line in child.lines:
        if line == "open":
            continue
        session_id, batch, size, first_seq = line.split()
        acks.append(Ack(session_id, batch, int(size), int(first_seq)))
    return acks


def hold(acks: list[Ack], path: Path) -> Report:
    report = Report("exit", 1)
    judge(report, acks, anyio.run(contents, path))
    assert not report.found, report.messages
    return report


async def write(history: AsyncHistoryManager, name: str) -> None:
    """Append until the store is closed, which at exit it is."""
    number = 0
    with suppress(NotOpenError):
        while True:
            number += 1
            ack = await append(history, f"session-{name}", f"{name}.{number}", 3)
            say(" ".join(map(str, ack)))


# -- with writes under way


def exit_from_the_main_thread(folder: str, backend: str) -> None:
    """A loop in a daemon thread appends while the main thread ends."""
    started = threading.Event()

    async def work() -> None:
        history = await AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db")).__aenter__()
        async with anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(write, history, name)
            await append(history, "first", "first", 1)
            started.set()

    thread = threading.Thread(target=lambda: anyio.run(work, backend=backend), daemon=True)
    thread.start()
    started.wait()


@BACKENDS
def test_an_exit_while_a_daemon_thread_writes(tmp_path: Path, backend: str) -> None:
    child = Child("tests.faults.test_exits:exit_from_the_main_thread", tmp_path, backend)

    acks = acknowledged(child)

    assert hold(acks, tmp_path / "x.db").stored >= 1


def exit_after_a_cancellation(folder: str, backend: str) -> None:
    """The loop ends while tasks append, which are cancelled, and nobody closes the store."""

    async def work() -> None:
        history = await AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db")).__aenter__()
        async with anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(write, history, name)
            for number in range(20):
                await append(history, "leaving", f"leaving.{number}", 1)
            tasks.cancel_scope.cancel()

    anyio.run(work, backend=backend)


def exit_without_waiting(folder: str) -> None:
    """Start appends, and end before one has returned. (trio waits for its tasks to end.)"""

    async def work() -> None:
        history = await AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db")).__aenter__()
        tasks = [asyncio.create_task(write(history, name)) for name in "abcd"]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    anyio.run(work)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("exit_after_a_cancellation", ["asyncio"]),
        ("exit_after_a_cancellation", ["trio"]),
        ("exit_without_waiting", []),
    ],
)
def test_an_exit_after_the_loop_has_ended(
    tmp_path: Path, function: str, arguments: list[str]
) -> None:
    child = Child(f"tests.faults.test_exits:{function}", tmp_path, *arguments)

    acks = acknowledged(child)

    hold(acks, tmp_path / "x.db")


# -- behind a lock


def exit_behind_a_lock(folder: str, backend: str) -> None:
    """End while a write waits for the lock of another process."""
    from asynchistory.storage.sqlite import engine

    engine.EXIT_TIMEOUT = 0.1
    started = threading.Event()

    async def work() -> None:
        history = await AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db")).__aenter__()
        await append(history, "chat", "old", 1)
        say("open")
        await anyio.to_thread.run_sync(wait_for_go)
        started.set()
        await append(history, "chat", "never", 1)

    thread = threading.Thread(target=lambda: anyio.run(work, backend=backend), daemon=True)
    thread.start()
    started.wait()


@BACKENDS
def test_an_exit_while_a_write_waits_for_a_lock(tmp_path: Path, backend: str) -> None:
    child = Child("tests.faults.test_exits:exit_behind_a_lock", tmp_path, backend)
    assert child.listen(1), child.end()
    with locked(tmp_path / "x.db"):
        child.go()
        assert acknowledged(child) == []

    assert hold([Ack("chat", "old", 1, 1)], tmp_path / "x.db").stored == 1
