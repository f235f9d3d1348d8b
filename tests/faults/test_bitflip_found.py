"""What the campaign ``bitflip`` found, as small as it gets."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from asynchistory import AsyncHistoryManager, CorruptRecord, Message, SQLiteStorage

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("was", [b"user", b"role", b"parts"])
async def test_counts_go_on_where_a_flipped_bit_made_text_other_than_utf_8(
    tmp_path: Path, was: bytes
) -> None:
    """To SQLite it still is JSON; it takes any bytes for text."""
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for _ in range(2):
            await history.append("chat", Message.of("user", "hello"))
    with closing(apsw.Connection(str(path))) as db:
        [(body,)] = db.execute("SELECT CAST(body AS BLOB) FROM records WHERE seq = 1")
        damaged = body.replace(was, bytes([was[0] ^ 0x80]) + was[1:])
        assert damaged != body
        db.execute("UPDATE records SET body = CAST(? AS TEXT) WHERE seq = 1", (damaged,))

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        assert isinstance((await history.last("chat"))[0], CorruptRecord)
        summary = await history.get_session_summary("chat")
        assert (summary.records, (await history.count()).records) == (2, 2)
        assert summary.roles["user"] >= 1
