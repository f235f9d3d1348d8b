"""What the tests of forks found: locks that a thread held in the moment of the fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import append
from tests.faults.children import say
from tests.faults.report import LOOPS
from tests.faults.test_forks import end_of, refused, said

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def fork_with_a_lock(folder: str, backend: str) -> None:
    """Fork in the moment in which a thread of the store holds one of its locks."""
    history = AsyncHistoryManager(SQLiteStorage(Path(folder) / "x.db"))

    async def open_and_leave() -> None:
        await history.__aenter__()
        await append(history, "chat", "before", 1)
        await history.last("chat")

    async def close() -> None:
        await history.__aexit__(None, None, None)

    anyio.run(open_and_leave, backend=backend)
    for name, lock in locks_of(history):
        code = fork_while(lock, lambda: anyio.run(refused, history, backend=backend))
        say(f"{name} {code}")
    anyio.run(close, backend=backend)


def locks_of(history: object) -> list[tuple[str, threading.Lock]]:
    """The locks of a history and its parts, which threads hold for moments."""
    todo, seen, found = [history], set[int](), []
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        for name, value in getattr(item, "__dict__", {}).items():
            if isinstance(value, type(threading.Lock())) and not value.locked():
                found.append((f"{type(item).__name__}.{name}", value))
            elif type(value).__module__.startswith("asynchistory."):
                todo.append(value)
    return found


def fork_while(lock: threading.Lock, work: Callable[[], object]) -> int:
    with lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(3)
            code = 1
            try:
                code = 0 if work() == 6 else 2
            finally:
                os._exit(code)
    return end_of(pid)


@pytest.mark.parametrize("backend", LOOPS)
def test_a_fork_while_a_thread_holds_a_lock_of_the_store(tmp_path: Path, backend: str) -> None:
    """In the child nobody would ever let go of it."""
    lines = said("test_forks_found:fork_with_a_lock", tmp_path, backend)

    assert lines
    assert {line.split()[1] for line in lines} == {"0"}, lines
