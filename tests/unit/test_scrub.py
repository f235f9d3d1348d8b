"""What keeps an erasure from removing its traces, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    BusyError,
    SQLiteStorage,
    StorageUnavailableError,
    TailCache,
)
from asynchistory.storage.sqlite import search_index
from tests.contract.chats import add, fill, session_ids, texts
from tests.contract.traces import traces

pytestmark = pytest.mark.anyio


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A reader of another process, which sees the file as it is now for as long as it wants."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sessions").fetchall()
        yield


async def test_a_reader_elsewhere_keeps_the_traces_and_the_caller_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    storage = SQLiteStorage(path, lock_timeout=0.05)
    async with AsyncHistoryManager(storage, TailCache()) as history:
        await fill(history, "other", 2, user_id="bob")
        await history.create_session("chat", user_id="canary-user")
        await add(history, "chat", "canary-content")

        with reading(path):
            with pytest.raises(BusyError, match="call again"):
                await history.erase_user("canary-user")
            assert await session_ids(history) == {"other"}
            await add(history, "other", "3")
        assert (await history.erase_user("canary-user")).sessions == 0

        assert traces(tmp_path, "canary-user", "canary-content") == {}
        assert await texts(history, "other") == ["1", "2", "3"]


@pytest.mark.parametrize("error", [apsw.IOError("SQLITE_IOERR"), apsw.FullError("SQLITE_FULL")])
async def test_an_index_that_cannot_be_purged_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: apsw.Error
) -> None:
    def purge(_db: apsw.Connection) -> bool:
        raise error

    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "history.db")) as history:
        await history.create_session("chat", user_id="canary-user")
        with monkeypatch.context() as patch:
            patch.setattr(search_index, "purge", purge)
            with pytest.raises(StorageUnavailableError):
                await history.erase_user("canary-user")
        await history.erase_user("canary-user")
        assert traces(tmp_path, "canary-user") == {}


async def test_an_index_that_is_damaged_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter([True, True])

    def purge(_db: apsw.Connection) -> bool:
        if next(steps, False):
            return True
        raise apsw.CorruptError("fts5: corruption found")

    monkeypatch.setattr(search_index, "purge", purge)
    monkeypatch.setattr(search_index, "is_damage", lambda error: True)
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "history.db")) as history:
        await history.create_session("chat", user_id="canary-user")
        assert (await history.erase_user("canary-user")).sessions == 1
        assert traces(tmp_path, "canary-user") == {}
