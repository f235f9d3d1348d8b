"""The SQLite store's threads: their life, and what happens at its edges."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from asynchistory import BusyError, LifecycleError, Message, NotOpenError, SQLiteStorage
from asynchistory.manager import AsyncHistoryManager

HELLO = Message.of("user", "hello")


def lock_from_another_process(path: Path) -> subprocess.Popen[str]:
    """A process that holds the write lock until it is sent the end of its input."""
    script = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("asynchistory-")}


@pytest.mark.anyio
async def test_closing_ends_the_threads_and_leaves_one_file(tmp_path: Path) -> None:
    before = ours()
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "h.db")) as history:
        await history.append("s", HELLO)
        await history.last("s")
    for thread in ours() - before:
        thread.join(30)  # its last act was to say that it is done
    assert ours() <= before
    assert os.listdir(tmp_path) == ["h.db"]
    assert (tmp_path / "h.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.anyio
async def test_it_counts_its_openers_and_can_be_opened_again(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "h.db")
    history = AsyncHistoryManager(storage)
    with pytest.raises(NotOpenError, match="async with"):
        await history.append("s", HELLO)
    async with history:
        async with AsyncHistoryManager(storage) as other:
            await other.append("s", HELLO)
        assert len(await history.last("s")) == 1
    with pytest.raises(NotOpenError):
        await history.last("s")
    async with history:
        assert len(await history.last("s")) == 1


@pytest.mark.anyio
async def test_many_open_and_close_at_once(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "h.db")

    async def work() -> None:
        for _ in range(5):
            async with AsyncHistoryManager(storage) as history:
                await history.append("s", HELLO)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(work)
    async with AsyncHistoryManager(storage) as history:
        assert len(await history.last("s", 100)) == 50


@pytest.mark.anyio
async def test_another_process_s_lock_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "h.db", lock_timeout=0.05)
    async with AsyncHistoryManager(storage) as history:
        await history.append("s", HELLO)
        other = lock_from_another_process(tmp_path / "h.db")
        with pytest.raises(BusyError, match=r"0\.05 s"):
            await history.append("s", HELLO)
        assert len(await history.last("s")) == 1
        other.communicate("")
        await history.append("s", HELLO)
        assert len(await history.last("s")) == 2


@pytest.mark.anyio
async def test_a_cancelled_append_behind_a_lock_is_not_stored(tmp_path: Path) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "h.db")) as history:
        await history.append("s", HELLO)
        other = lock_from_another_process(tmp_path / "h.db")
        with anyio.move_on_after(0.01) as scope:
            await history.append("s", HELLO)
        assert scope.cancelled_caught
        other.communicate("")
        await history.append("s", Message.of("user", "next"))
        assert [record.text for record in await history.last("s")] == ["hello", "next"]  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_and_its_parent_unharmed(tmp_path: Path) -> None:
    script = """
import os, sys, anyio
from asynchistory import LifecycleError, Message, open_history

async def child(history):
    try:
        await history.append("s", Message.of("user", "from the child"))
    except LifecycleError:
        pass
    else:
        return 1
    try:
        async with open_history(sys.argv[1]) as again:
            return 2
    except LifecycleError:
        return 0

async def main():
    async with open_history(sys.argv[1]) as history:
        await history.append("s", Message.of("user", "before"))
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                code = await child(history)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        await history.append("s", Message.of("user", "after"))
        print(os.waitstatus_to_exitcode(status), [r.text for r in await history.last("s")])

anyio.run(main, backend=sys.argv[2])
"""
    for backend in ("asyncio", "trio"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{backend}.db"), backend],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == "0 ['before', 'after']", done.stderr


def test_exit_without_close_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    script = """
import sys, anyio
from asynchistory import Message, open_history

async def main():
    history = await open_history(sys.argv[1]).__aenter__()
    print((await history.append("s", Message.of("user", "hello"))).last_seq)

anyio.run(main, backend=sys.argv[2])
"""
    for seq, backend in ((1, "asyncio"), (2, "trio")):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, str(tmp_path / "h.db"), backend],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(seq), "")


def test_without_an_event_loop_it_says_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="asynchistory_compat"):
        SQLiteStorage(tmp_path / "h.db").open().send(None)
