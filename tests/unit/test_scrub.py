"""What keeps an erasure from removing its traces, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from asynchistory import AsyncHistoryManager, BusyError, SQLiteStorage, TailCache
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
