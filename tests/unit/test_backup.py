"""A backup is the store as of one moment, made while it is in use, and whole or not there."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    BackupExistsError,
    HistoryQuery,
    InvalidInputError,
    MemoryStorage,
    NotOpenError,
    SQLiteStorage,
    StorageUnavailableError,
    UnsupportedError,
    open_history,
)
from asynchistory.storage.sqlite import backup
from asynchistory.storage.sqlite.stopping import Stop
from tests.contract.archiving import figures, lines_of, live, say

pytestmark = pytest.mark.anyio


@pytest.fixture
async def history(tmp_path: Path) -> Any:
    (tmp_path / "to").mkdir()
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db"), level="fresh") as history:
        yield history


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "to" / "copy.db"


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_backup_is_the_same_database(history: AsyncHistoryManager, dest: Path) -> None:
    await live(history)

    assert await history.backup(str(dest)) == dest

    assert os.listdir(dest.parent) == ["copy.db"]
    async with open_history(dest) as copy:
        assert (await copy.verify()).ok
        assert await lines_of(copy) == await lines_of(history)
        assert await figures(copy) == await figures(history)
        again = await copy.append("cut", *[say(str(n)) for n in range(6)], idempotency_key="made")
        assert again.replayed
        await copy.append("chat", say("goes on"))
    assert "goes on" not in str(await history.last("chat"))


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
async def test_a_backup_is_for_its_owner_alone(history: AsyncHistoryManager, dest: Path) -> None:
    before = os.umask(0)
    try:
        await history.backup(dest)
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(dest).st_mode) == 0o600


async def test_a_backup_while_four_tasks_append(
    history: AsyncHistoryManager, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES", 4)  # many steps, between which they write
    acknowledged: dict[str, int] = {}
    stop = False

    async def write(name: str) -> None:
        while not stop:
            number = acknowledged.get(name, 0)
            await history.append(name, say(f"{number}" * 50), say("second"))
            acknowledged[name] = number + 1

    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(write, name)
        while sum(acknowledged.values()) < 100:
            await anyio.lowlevel.checkpoint()
        for number in range(5):
            before = dict(acknowledged)
            await history.backup(dest.with_name(f"{number}.db"))
            after = dict(acknowledged)
            await check(dest.with_name(f"{number}.db"), before, after)
        stop = True
    assert (await history.verify()).ok


async def check(path: Path, before: dict[str, int], after: dict[str, int]) -> None:
    """The copy has what was acknowledged before, nothing by halves, and no gap."""
    async with open_history(path, level="fresh") as copy:
        assert (await copy.verify()).ok
        for name, number in before.items():
            page = await copy.query_history(HistoryQuery(name, limit=10_000))
            texts = [record.text for record in page]
            appends = [text for text in texts if text != "second"]
            assert len(texts) == 2 * len(appends)
            assert appends == [f"{count}" * 50 for count in range(len(appends))]
            # One more than was acknowledged may have been stored.
            assert number <= len(appends) <= after[name] + 1


def raw_writer(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(10_000)
    return db


def test_writes_between_its_steps_do_not_make_it_begin_again(tmp_path: Path) -> None:
    source, part = tmp_path / "x.db", tmp_path / "part"
    part.touch()
    with closing(raw_writer(source)) as writer, closing(raw_writer(source)) as reader:
        writer.pragma("journal_mode", "wal")
        writer.execute("CREATE TABLE t(x)")
        with writer:
            writer.executemany("INSERT INTO t VALUES(zeroblob(3000))", [()] * 3000)
        reader.execute("BEGIN")
        steps = 0

        class Writes(Stop):
            def check(self) -> None:
                nonlocal steps
                steps += 1
                assert steps < 100, "it begins again and again"
                writer.execute("INSERT INTO t VALUES(zeroblob(3000))")
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

        backup._copy(reader, part, Writes())
        reader.execute("COMMIT")

        assert steps > 10
        with closing(apsw.Connection(str(part))) as copy:
            assert copy.execute("SELECT count(*) FROM t").fetchall() == [(3000,)]


# -- names


async def test_an_existing_file_is_not_touched(history: AsyncHistoryManager, dest: Path) -> None:
    await history.append("chat", say("x"))
    write(dest, b"precious")

    with pytest.raises(BackupExistsError, match="overwrite=True"):
        await history.backup(dest)

    assert contents(dest.parent) == {"copy.db": b"precious"}


async def test_an_earlier_backup_is_replaced_when_asked(
    history: AsyncHistoryManager, dest: Path
) -> None:
    for number in range(3):
        await history.append("chat", say(str(number)))
        await history.backup(dest, overwrite=True)
        async with open_history(dest) as copy:
            assert len(await copy.last("chat")) == number + 1
    assert os.listdir(dest.parent) == ["copy.db"]


@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_database_is_not_copied_onto_itself(
    overwrite: bool, history: AsyncHistoryManager, tmp_path: Path
) -> None:
    await history.append("chat", say("x"))
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")

    for name in ("x.db", "link.db", "to/../x.db"):
        with pytest.raises(BackupExistsError):
            await history.backup(tmp_path / name, overwrite=overwrite)

    assert (await history.verify()).ok


@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_database_that_is_in_use_is_not_replaced(
    overwrite: bool, history: AsyncHistoryManager, dest: Path
) -> None:
    await history.append("chat", say("x"))
    async with open_history(dest) as other:
        await other.append("other", say("y"))

        with pytest.raises(BackupExistsError):
            await history.backup(dest, overwrite=overwrite)

        assert [record.text for record in await other.last("other", level="fresh")] == ["y"]
        assert (await other.verify()).ok


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
async def test_a_log_that_was_left_behind_is_not_taken_for_the_copy_s(
    suffix: str, history: AsyncHistoryManager, dest: Path
) -> None:
    dest.with_name(f"copy.db{suffix}").write_bytes(b"of another database")

    with pytest.raises(BackupExistsError, match="another name"):
        await history.backup(dest)

    assert os.listdir(dest.parent) == [f"copy.db{suffix}"]


async def test_two_backups_of_one_name_leave_one_whole(
    history: AsyncHistoryManager, dest: Path
) -> None:
    await live(history)
    outcomes: list[type[BaseException] | None] = []

    async def one() -> None:
        try:
            await history.backup(dest)
            outcomes.append(None)
        except BackupExistsError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)

    assert sorted(outcomes, key=str) == [BackupExistsError] * 3 + [None]
    assert os.listdir(dest.parent) == ["copy.db"]
    async with open_history(dest) as copy:
        assert (await copy.verify()).ok


async def test_places_where_no_file_can_be_made(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "to", tmp_path / "missing" / "x.db", tmp_path / "file" / "x.db"):
        with pytest.raises(StorageUnavailableError, match=path.name):
            await history.backup(path)
    for path in ("", "a\0b"):
        with pytest.raises(InvalidInputError, match="path"):
            await history.backup(path)
    assert os.listdir(tmp_path / "to") == []


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
async def test_a_disk_that_is_full_leaves_nothing(
    history: AsyncHistoryManager, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    await history.append("chat", *[say("x" * 1000)] * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The largest file that this process may write stands for what the disk has left.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StorageUnavailableError, match=r"copy\.db"):
            await history.backup(dest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert os.listdir(dest.parent) == []
    assert (await history.verify()).ok


# -- cancelled


async def test_a_cancelled_backup_leaves_nothing_or_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES", 2)
    folder = tmp_path / "to"
    folder.mkdir()
    outcomes: dict[bool, int] = {True: 0, False: 0}
    whole = set()
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        await history.append("chat", *[say("x" * 500)] * 100)
        for number in range(60):
            returned = False
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel_after, number * 6, scope)
                    await history.backup(folder / f"{number}.db")
                    returned = True
            outcomes[returned] += 1
            if returned:
                whole.add(f"{number}.db")
    assert outcomes[False]
    # The store is closed, so that its threads have ended: what was called off is gone.
    assert set(os.listdir(folder)) == whole
    for name in whole:
        async with open_history(folder / name) as copy:
            assert (await copy.verify()).records == 100


async def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


def test_past_a_point_it_is_not_called_off() -> None:
    stop = Stop()
    stop.claim()

    assert not stop.withdraw()
    stop.check()


# -- other stores


async def test_a_memory_store_says_what_to_do_instead(tmp_path: Path) -> None:
    async with AsyncHistoryManager(MemoryStorage()) as history:
        with pytest.raises(UnsupportedError, match="export"):
            await history.backup(tmp_path / "copy.db")
    assert os.listdir(tmp_path) == []


async def test_a_closed_store_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(NotOpenError):
        await open_history(tmp_path / "x.db").backup(tmp_path / "copy.db")


async def test_a_file_system_without_links_gets_one_too(
    history: AsyncHistoryManager, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    await live(history)

    assert await history.backup(dest) == dest
    async with AsyncHistoryManager(SQLiteStorage(dest)) as copy:
        assert await lines_of(copy) == await lines_of(history)


async def test_without_links_it_takes_no_other_file_s_place_either(
    history: AsyncHistoryManager, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        write(dest, b"another's")
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    await live(history)

    with pytest.raises(BackupExistsError):
        await history.backup(dest)
    assert contents(dest.parent) == {dest.name: b"another's"}
