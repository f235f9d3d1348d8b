"""A database file that is deleted or replaced while it is open.

SQLite itself goes on with the file that it has: what it writes is gone with it.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage, StorageUnavailableError
from tests.faults.batches import CANARY, append, contents
from tests.faults.children import Child
from tests.faults.report import Ack, Report, judge

pytestmark = pytest.mark.anyio

HELLO = Message.of("user", CANARY)
Move = Callable[[Path], None]


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def delete_the_database_alone(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def rename_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def write_another(path: str) -> None:
    """In a process of its own, as whoever puts a file in place of an open one is."""

    async def write() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            for number in range(3):
                await append(history, "other", f"other-{number}", 1)

    anyio.run(write)


def replace(path: Path) -> None:
    """Another database of ours is copied over the name."""
    other = path.with_name("other.db")
    child = Child("tests.faults.test_moved_files:write_another", other)
    assert child.end() == (0, "")
    delete(path)
    other.rename(path)


def replace_by_text(path: Path) -> None:
    delete(path)
    path.write_text("not a database")


def replace_by_nothing(path: Path) -> None:
    delete(path)
    path.touch()


MOVES: list[Move] = [
    delete, delete_the_database_alone, rename, rename_its_folder, replace, replace_by_text,
    replace_by_nothing,
]  # fmt: skip

CALLS: dict[str, Callable[[AsyncHistoryManager], Awaitable[object]]] = {
    "append": lambda history: history.append("chat", HELLO),
    "append to a new session": lambda history: history.append("new", HELLO),
    "fresh": lambda history: history.last("chat", level="fresh"),
    "validated": lambda history: history.last("chat", level="validated"),
    "list_sessions": lambda history: history.list_sessions(),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "x.db"


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
async def test_every_call_says_that_the_file_is_not_there_any_more(path: Path, move: Move) -> None:
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", HELLO)
        await history.last("chat")
        await anyio.to_thread.run_sync(move, path)

        for name, call in CALLS.items():
            for _ in range(2):
                with pytest.raises(StorageUnavailableError, match=r"put|check") as caught:
                    await call(history)
                said = str(caught.value)
                assert str(path) in said, f"{name} does not name the file"
                assert CANARY not in said


@pytest.mark.parametrize("move", [delete, replace], ids=lambda move: move.__name__)
@pytest.mark.parametrize("call", sorted(CALLS))
async def test_the_first_call_of_each_kind_says_it(path: Path, call: str, move: Move) -> None:
    """A connection that is opened only now, by name, must not take the other file for its own."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", HELLO)
        await anyio.to_thread.run_sync(move, path)

        with pytest.raises(StorageUnavailableError):
            await CALLS[call](history)


async def test_what_returned_before_is_in_the_file_that_was_moved(path: Path) -> None:
    acks: list[Ack] = []
    refused: list[str] = []
    moved = anyio.Event()

    async def write(history: AsyncHistoryManager, name: str) -> None:
        for number in range(40):
            try:
                acks.append(await append(history, "chat", f"{name}.{number}", 2))
            except StorageUnavailableError:
                refused.append(name)
                return
            if number == 20:
                moved.set()

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        async with anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(write, history, name)
            await moved.wait()
            shutil.move(path.parent, path.parent.with_name("elsewhere"))
        with pytest.raises(StorageUnavailableError):
            await history.append("chat", HELLO)

    assert len(acks) > 20
    assert refused
    report = Report("moved", 1)
    judge(report, acks, await contents(path.parent.with_name("elsewhere") / "x.db"))
    assert not report.found, report.messages


async def test_it_can_be_opened_again_once_the_file_is_back(path: Path) -> None:
    history = AsyncHistoryManager(SQLiteStorage(path))
    async with history:
        await history.append("chat", HELLO)
        shutil.move(path.parent, path.parent.with_name("elsewhere"))
        with pytest.raises(StorageUnavailableError):
            await history.append("chat", HELLO)
    shutil.move(path.parent.with_name("elsewhere"), path.parent)

    async with history:
        assert (await history.append("chat", HELLO)).first_seq == 2


@pytest.mark.parametrize("used", [True, False])
async def test_closing_leaves_the_file_alone_that_took_its_place(path: Path, used: bool) -> None:
    """SQLite deletes logs by name: that of the new file must not be taken for its own."""
    old, new = SQLiteStorage(path), SQLiteStorage(path)
    await old.open()
    if used:
        history = AsyncHistoryManager(old)
        await history.append("chat", HELLO)
        await history.last("chat")
    await anyio.to_thread.run_sync(delete, path)

    async with AsyncHistoryManager(new) as history:
        acks = [await append(history, "chat", "new", 1)]
        await old.aclose()
        gc.collect()
        assert path.with_name("x.db-wal").exists()
        acks.append(await append(history, "chat", "newer", 1))

    report = Report("moved", 1)
    judge(report, acks, await contents(path))
    assert not report.found, report.messages


async def test_the_file_that_took_its_place_keeps_what_it_has(path: Path) -> None:
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", HELLO)
        await anyio.to_thread.run_sync(replace, path)
        for call in CALLS.values():
            with pytest.raises(StorageUnavailableError):
                await call(history)

    stored = await contents(path)
    assert {name: len(pieces) for name, pieces in stored.items()} == {"other": 3}
