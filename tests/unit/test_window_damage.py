"""Windows and repairs of a session with a damaged record."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Checkpoint,
    CorruptRecord,
    HistoryQuery,
    Level,
    Message,
    SQLiteStorage,
    TailCache,
)
from tests.contract.calling import call, result
from tests.contract.chats import say

pytestmark = pytest.mark.anyio


def damage(path: Path, seq: int) -> None:
    with apsw.Connection(str(path)) as db:
        db.execute("UPDATE records SET crc = crc + 1 WHERE seq = ?", (seq,))


@pytest.mark.parametrize("depth", [1, 100])
async def test_a_damaged_message_is_left_out_with_what_hangs_on_it(
    tmp_path: Path, depth: int
) -> None:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path), TailCache(depth=depth)) as history:
        await history.append(
            "chat", say("1"), call("a"), result("a"), say("4"), call("b"), result("b"), say("7")
        )
        damage(path, 3)
        damage(path, 5)

        window = await history.window("chat", last=7)

        assert [message.seq for message in window] == [1, 4, 7]
        assert window.left_out == (2, 3, 5, 6)
        repaired = await history.repair("chat")
        assert [call.seq for call in repaired.answered] == [2]
        assert [result.seq for result in repaired.orphans] == [6]


async def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path), TailCache()) as history:
        for state in (1, 2):
            await history.save_checkpoint("chat", "here", state)
        damage(path, 2)

        found = await history.get_checkpoint("chat", "here")

        assert (found.seq, found.state) == (1, 1)
        assert isinstance(found, Checkpoint)
        assert await history.list_checkpoints("chat") == (found,)


async def test_a_damaged_message_asks_for_no_tools(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
        await history.append("chat", say("1"), call("a"))
        damage(path, 1)

        assert len(await history.pending_tool_calls("chat")) == 1


@pytest.mark.parametrize("level", ["validated", "fresh"])
async def test_a_filter_finds_a_damaged_record_whatever_the_level(
    tmp_path: Path, level: Level
) -> None:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path), TailCache(), level=level) as history:
        await history.append("chat", say("1"), say("2"))
        damage(path, 1)
        await history.last("chat")

        messages = await history.query_history(HistoryQuery("chat", record_types=("message",)))
        costs = await history.query_history(HistoryQuery("chat", record_types=("cost",)))

        assert [(type(record), record.seq) for record in messages] == [
            (CorruptRecord, 1),
            (Message, 2),
        ]
        assert list(costs) == []
