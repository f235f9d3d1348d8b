"""Files that are not, or cannot be, a database of ours: refused by type, and left as they are."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel
import apsw
import pytest

from asynchistory import (
    AsyncHistoryError,
    AsyncHistoryManager,
    BusyError,
    ForeignDatabaseError,
    Message,
    NewerSchemaError,
    NotOpenError,
    SQLiteStorage,
    StorageUnavailableError,
)
from asynchistory.storage.sqlite.migrations import SCHEMA_VERSION

pytestmark = pytest.mark.anyio

CANARY = "cAnArY-7741"
GOOD = Message.of("user", "fine")


async def refuse_to_open(path: Path, error: type[AsyncHistoryError], remedy: str) -> None:
    with pytest.raises(error, match=remedy) as caught:
        async with AsyncHistoryManager(SQLiteStorage(path)):
            pytest.fail("it was opened")
    assert CANARY not in str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- files of others


def text_file(path: Path) -> None:
    path.write_text(f"Dear diary, {CANARY}\n" * 1000)


def short_text_file(path: Path) -> None:
    path.write_text(CANARY)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def other_database(path: Path, *settings: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for setting in settings:
            db.execute(setting)
        db.execute("CREATE TABLE records(body TEXT)")
        db.execute("INSERT INTO records VALUES(?)", (CANARY,))
        db.commit()


def others_wal_database(path: Path) -> None:
    other_database(path, "PRAGMA journal_mode=WAL")


def others_marked_database(path: Path) -> None:
    other_database(path, "PRAGMA application_id=12345", "PRAGMA user_version=1")


def others_marked_empty_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id=12345")
        db.execute("VACUUM")


def others_crashed_database(path: Path) -> None:
    """What an application leaves that was killed: commits that are in the WAL alone."""
    there = path.with_name("live")
    there.mkdir()
    live = there / path.name
    with closing(sqlite3.connect(live)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(x)")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("INSERT INTO t VALUES(?)", (CANARY,))
        db.commit()
        for suffix in ("", "-wal"):
            Path(f"{path}{suffix}").write_bytes(Path(f"{live}{suffix}").read_bytes())


FOREIGN: list[Callable[[Path], None]] = [
    text_file, short_text_file, zeros, other_database, others_wal_database,
    others_marked_database, others_marked_empty_database, others_crashed_database,
]  # fmt: skip


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
async def test_a_foreign_file_is_refused_and_not_touched(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.db"
    make(path)
    before = contents(tmp_path)

    for _ in range(2):
        await refuse_to_open(path, ForeignDatabaseError, "a file of its own")

    assert contents(tmp_path) == before


async def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch()

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", GOOD)


# -- files of ours


@pytest.fixture
async def ours(tmp_path: Path) -> Path:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", Message.of("user", CANARY))
    return path


async def test_a_newer_schema_is_refused_and_not_touched(ours: Path) -> None:
    with closing(apsw.Connection(str(ours))) as db:
        db.execute("PRAGMA user_version=99")
    before = contents(ours.parent)

    with pytest.raises(NewerSchemaError, match="upgrade asynchistory") as caught:
        async with AsyncHistoryManager(SQLiteStorage(ours)):
            pytest.fail("it was opened")

    assert (caught.value.found, caught.value.supported) == (99, SCHEMA_VERSION)
    assert contents(ours.parent) == before


async def test_a_truncated_database_is_not_read_as_empty(ours: Path) -> None:
    with ours.open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)

    async def use() -> None:
        async with AsyncHistoryManager(SQLiteStorage(ours)) as history:
            await history.append("chat", GOOD)
            await history.last("chat", level="fresh")

    with pytest.raises(StorageUnavailableError, match="damaged; restore a backup"):
        await use()


async def test_a_database_whose_header_was_overwritten_is_refused(ours: Path) -> None:
    with ours.open("r+b") as file:
        file.write(b"\xff" * 100)

    await refuse_to_open(ours, ForeignDatabaseError, "a file of its own")


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.db"

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.append("chat", GOOD)
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


# -- places


async def test_a_folder_as_path_is_refused(tmp_path: Path) -> None:
    await refuse_to_open(tmp_path, StorageUnavailableError, "check|use")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["x.db", "folder/x.db"])
async def test_a_path_through_a_file_is_refused(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text(CANARY)

    await refuse_to_open(file / below, StorageUnavailableError, "check|use")

    assert file.read_text() == CANARY


# Opens argv[1] as an unprivileged user, whom the modes of files hold even where the tests run
# as root; says what it raised.
AS_NOBODY = """
import os, sys, anyio, asynchistory.storage.sqlite, asynchistory.manager, asyncio, trio
from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
import anyio._backends._asyncio
async def main():
    try:
        async with AsyncHistoryManager(SQLiteStorage(sys.argv[1])) as history:
            await history.append("chat", Message.of("user", "x"))
    except Exception as error:
        print(type(error).__name__, str(error))
if os.getuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
anyio.run(main)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def as_nobody(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_a_read_only_folder_is_refused(open_folder: Path) -> None:
    open_folder.chmod(0o555)

    said = as_nobody(open_folder / "x.db")

    assert said.startswith("StorageUnavailableError")
    assert "x.db" in said
    assert "check" in said, "it names no remedy"
    assert list(open_folder.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_an_unreadable_or_read_only_file_is_refused(open_folder: Path, mode: int) -> None:
    path = open_folder / "x.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t(x)")
        db.commit()
    before = path.read_bytes()
    path.chmod(mode)

    said = as_nobody(path)

    assert said.startswith(("StorageUnavailableError", "ForeignDatabaseError"))
    assert "check" in said or "a file of its own" in said, "it names no remedy"
    path.chmod(0o600)
    assert path.read_bytes() == before


# -- locks


async def test_a_lock_past_the_deadline_is_an_error_and_writes_nothing(ours: Path) -> None:
    storage = SQLiteStorage(ours, lock_timeout=0.02)
    async with AsyncHistoryManager(storage, level="fresh") as history:
        with closing(apsw.Connection(str(ours))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BusyError, match="try again") as caught:
                await history.append("chat", Message.of("user", CANARY))
            assert CANARY not in str(caught.value)
            assert len(await history.last("chat")) == 1  # readers go on
            other.execute("ROLLBACK")
        assert (await history.append("chat", GOOD)).first_seq == 2


async def test_a_lock_that_is_let_go_in_time_is_waited_for(ours: Path) -> None:
    async with AsyncHistoryManager(SQLiteStorage(ours)) as history:
        with closing(apsw.Connection(str(ours))) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(history.append, "chat", GOOD)
                for _ in range(50):
                    await anyio.lowlevel.checkpoint()
                assert len(await history.last("chat", level="fresh")) == 1
                other.execute("COMMIT")
        assert len(await history.last("chat", level="fresh")) == 2


async def test_a_store_that_failed_to_open_can_be_opened_once_the_cause_is_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.db"
    path.write_text("not a database")
    history = AsyncHistoryManager(SQLiteStorage(path))
    with pytest.raises(ForeignDatabaseError):
        await history.__aenter__()
    with pytest.raises(NotOpenError):
        await history.append("chat", GOOD)
    path.unlink()

    async with history:
        assert (await history.append("chat", GOOD)).first_seq == 1
