"""Forks of a process that has a store open: the child is told, the parent goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import apsw
import pytest

from asynchistory import AsyncHistoryManager, HistoryQuery, LifecycleError, SQLiteStorage
from asynchistory.forks import Inside
from asynchistory.storage.sqlite.engine import Engine
from tests.faults.batches import append, contents
from tests.faults.children import Child, say
from tests.faults.report import LOOPS, Ack, Report, judge

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

BACKENDS = pytest.mark.parametrize("backend", LOOPS)
#: Seconds after which a child that hangs is ended, which its exit code then says.
PATIENCE = 30


def said(function: str, *arguments: object) -> list[str]:
    """What a function says in a process of its own, which is one thread at its start."""
    child = Child(f"tests.faults.{function}", *arguments)
    assert child.end() == (0, "")
    return child.lines


def end_of(pid: int) -> int:
    """Wait for a process: its exit code, or the negative of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def refused(history: AsyncHistoryManager) -> int:
    """How many of the calls are refused as they should be, in a child."""
    count = 0
    for call in (
        lambda: append(history, "chat", "child", 1),
        lambda: history.last("chat", level="fresh"),
        lambda: history.last("chat", level="validated"),
        lambda: history.query_history(HistoryQuery("chat"), level="fresh"),
        lambda: history.list_sessions(),
        history.__aenter__,
    ):
        try:
            await call()
        except LifecycleError:
            count += 1
    return count


# -- a child that ends as a program does


def end_like_a_program(folder: str, backend: str) -> None:
    """Fork with an open store; the child looks around, writes elsewhere, and ends regularly."""
    path = Path(folder)
    history = AsyncHistoryManager(SQLiteStorage(path / "x.db"))

    async def open_and_leave() -> None:
        await history.__aenter__()
        await append(history, "chat", "before", 1)
        await history.last("chat")

    async def child() -> None:
        say(f"{await refused(history)} refused")
        async with AsyncHistoryManager(SQLiteStorage(path / "child.db")) as other:
            await append(other, "chat", "own", 1)
            say(f"{len(await other.last('chat'))} of its own")

    async def parent() -> None:
        await append(history, "chat", "after", 1)
        say(f"{len(await history.last('chat', level='fresh'))} in the parent")
        await history.__aexit__(None, None, None)

    anyio.run(open_and_leave, backend=backend)
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        anyio.run(child, backend=backend)
        return  # and ends as every program does, with all that is done at exit
    say(f"the child ended with {end_of(pid)}")
    anyio.run(parent, backend=backend)


@BACKENDS
def test_a_child_that_ends_regularly(tmp_path: Path, backend: str) -> None:
    assert said("test_forks:end_like_a_program", tmp_path, backend) == [
        "6 refused",
        "1 of its own",
        "the child ended with 0",
        "2 in the parent",
    ]


# -- forks while the store is at work


def fork_at_work(folder: str, backend: str) -> None:
    """Fork again and again while tasks append; each child tries the store."""
    path = Path(folder) / "x.db"
    acks: list[Ack] = []

    async def write(history: AsyncHistoryManager, name: str, stop: list[bool]) -> None:
        number = 0
        while not stop:
            number += 1
            acks.append(await append(history, f"session-{name}", f"{name}.{number}", 2))

    async def work() -> None:
        codes = []
        stop: list[bool] = []
        storage = SQLiteStorage(path)
        async with AsyncHistoryManager(storage) as history, anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(write, history, name, stop)
            for round_ in range(1, 31):
                while len(acks) < 7 * round_:
                    await anyio.lowlevel.checkpoint()
                codes.append(await fork_and_try(history))
            stop.append(True)
        say(f"the children ended with {set(codes)}")

    async def fork_and_try(history: AsyncHistoryManager) -> int:
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE)
            code = 1
            try:
                code = 0 if await refused(history) == 6 else 2
            finally:
                os._exit(code)
        return end_of(pid)

    anyio.run(work, backend=backend)
    report = Report("fork", 1)
    judge(report, acks, anyio.run(contents, path, backend=backend))
    say(f"{report.findings} found")


@BACKENDS
def test_forks_while_appends_are_under_way(tmp_path: Path, backend: str) -> None:
    assert said("test_forks:fork_at_work", tmp_path, backend) == [
        "the children ended with {0}",
        "{} found",
    ]


# -- forks while a thread is in SQLite


def fork_in_sqlite(folder: str, backend: str) -> None:
    """Fork while threads compile statements; each child opens a store of its own.

    A fork stops such a thread where it asks for memory, and there it holds a lock of SQLite.
    """
    path = Path(folder)
    busy = threading.Semaphore(0)

    def compile_statements(db: apsw.Connection) -> None:
        busy.release()
        for number in range(300):
            db.execute(f"SELECT {number}" + "+1" * 900)

    async def use_own() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path / f"{os.getpid()}.db")) as own:
            await append(own, "chat", "own", 1)

    def fork_and_try() -> int:
        busy.acquire()
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE)
            try:
                anyio.run(use_own, backend=backend)
            finally:
                os._exit(1 if sys.exc_info()[0] else 0)
        return end_of(pid)

    engine = Engine(path / "x.db", durability="full", lock_timeout=1)
    codes = set()
    with ThreadPoolExecutor(1) as pool:
        for use in (engine.chore, engine.read) * 3:
            done = pool.submit(anyio.run, use, compile_statements, backend=backend)
            codes.add(fork_and_try())
            done.result()
    anyio.run(engine.aclose, backend=backend)
    say(f"the children ended with {codes}")


@BACKENDS
def test_forks_while_threads_are_in_sqlite(tmp_path: Path, backend: str) -> None:
    assert said("test_forks:fork_in_sqlite", tmp_path, backend) == ["the children ended with {0}"]


def fork_beside_what_takes_long() -> None:
    """A fork waits its second for a thread that stays in SQLite, and then no longer."""
    inside = Inside()
    with inside:
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE)
            code = 1
            try:
                with inside:  # a new one
                    code = 0
            finally:
                os._exit(code)
        say(f"the child ended with {end_of(pid)}")
    with inside:
        say("the parent goes on")


def test_a_fork_beside_what_takes_long() -> None:
    assert said("test_forks:fork_beside_what_takes_long") == [
        "the child ended with 0",
        "the parent goes on",
    ]
