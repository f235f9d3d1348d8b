"""verify of a PostgreSQL store finds what was changed behind its back."""

from __future__ import annotations

import os
import struct
from zlib import crc32

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    CorruptRecord,
    HistoryQuery,
    Message,
    ToolCall,
)
from asynchistory.codec import TYPE_CODES, encode_record
from tests.contract.archiving import live
from tests.postgres import direct

pytestmark = pytest.mark.anyio

CHAT = "(SELECT sid FROM sessions WHERE id = 'chat')"
DAMAGE = {
    "a record that is gone": (f"DELETE FROM records WHERE sid = {CHAT} AND seq = 2", "missing"),
    "a session that says too much": (
        "UPDATE sessions SET seq = seq + 1 WHERE id = 'cut'",
        "newest",
    ),
    "a call that is gone": (f"DELETE FROM calls WHERE sid = {CHAT}", "model calls"),
    "a sum that is wrong": ("UPDATE rollup SET calls = calls + 1 WHERE scope = ''", "sums a day"),
    "a base that is gone": (
        "UPDATE sessions SET base = 9999 WHERE id = 'fork'",
        "rest on is missing",
    ),
    "metadata that is none": ("UPDATE sessions SET metadata = '[]' WHERE id = 'chat'", "metadata"),
    "a key that is damaged": ("UPDATE idempotency SET epoch = epoch + 99", "idempotency key"),
    "an epoch from nowhere": ("UPDATE sessions SET epoch = epoch + 9999", "not drawn yet"),
    "an epoch that is given twice": (
        f"UPDATE sessions SET epoch = (SELECT epoch FROM sessions WHERE sid = {CHAT}) "
        "WHERE id = 'empty'",
        "epochs that several sessions have: 1",
    ),
    "a record that is what its base has": (
        "UPDATE sessions SET base_seq = base_seq + 1 WHERE id = 'fork of fork';"
        "INSERT INTO records(sid, seq, ts, crc, type, id, body) SELECT s.sid, 1, r.ts, r.crc, "
        f"r.type, r.id, r.body FROM sessions s, records r WHERE s.id = 'fork' AND r.sid = {CHAT} "
        "AND r.seq = 1",
        "record 1 does not belong to it",
    ),
    "a fork that is longer than itself": (
        "UPDATE sessions SET fork_seq = seq + 1 WHERE id = 'fork'",
        "is not within its",
    ),
    "a base that is not named": (
        "UPDATE sessions SET base = NULL WHERE id = 'fork'",
        "it lacks the session that its first 9 records rest on",
    ),
    "a base that is too short": (
        "UPDATE sessions SET seq = 8 WHERE id = 'chat'",
        "it cannot rest on another session up to seq 9",
    ),
    "a base of others": (
        "UPDATE sessions SET family = 9999 WHERE id = 'fork'",
        "of another family",
    ),
    "metadata that is no JSON": (
        "UPDATE sessions SET metadata = '{' WHERE id = 'chat'",
        "its metadata is not a JSON object",
    ),
    "records of a pop that cannot be opened": (
        "UPDATE idempotency SET removed = 'nonsense' WHERE removed IS NOT NULL",
        "idempotency key is damaged",
    ),
    "records of a pop that are damaged": (
        "UPDATE idempotency SET removed = overlay(removed PLACING '\\x00'::bytea "
        "FROM length(removed)) WHERE removed IS NOT NULL",
        "idempotency key is damaged",
    ),
    "a stray record": (
        "INSERT INTO records(sid, seq, ts, crc, type, id, body) VALUES(9999, 1, 1, 1, 1, '', '')",
        "of a session that is missing",
    ),
}


@pytest.fixture
async def history(history: AsyncHistoryManager) -> AsyncHistoryManager:
    await live(history)
    return history


async def test_what_nobody_has_touched_is_whole(history: AsyncHistoryManager) -> None:
    assert (await history.verify()).ok


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_found(history: AsyncHistoryManager, url: str, name: str) -> None:
    sql, said = DAMAGE[name]
    with direct(url) as db:
        db.execute(sql)

    found = await history.verify()

    assert not found.ok
    assert any(said in problem for problem in found.problems), found.problems


async def test_a_damaged_record_is_told_and_the_others_are_read(
    history: AsyncHistoryManager, url: str
) -> None:
    with direct(url) as db:
        db.execute(f"UPDATE records SET body = replace(body, 'one', 'two') WHERE sid = {CHAT}")

    found = await history.verify()
    page = await history.query_history(HistoryQuery("chat"))

    assert [(item.session_id, item.seq) for item in found.damaged] == [("chat", 1)]
    assert isinstance(page.records[0], CorruptRecord)
    assert not any(isinstance(record, CorruptRecord) for record in page.records[1:])


async def test_a_record_that_says_to_be_of_another_type_is_damaged(
    history: AsyncHistoryManager, url: str
) -> None:
    row = encode_record(ToolCall(name="f", input={}))
    head = struct.pack(">Bq16s", TYPE_CODES["message"], row.timestamp, row.record_id)
    crc = crc32(row.body.encode(), crc32(head))
    with direct(url) as db:
        db.execute(
            f"UPDATE records SET ts = %s, id = %s, body = %s, crc = %s WHERE sid = {CHAT} "
            "AND seq = 1",
            (row.timestamp, row.record_id, row.body, crc),
        )

    found = await history.verify()

    assert [(item.seq, item.reason) for item in found.damaged] == [(1, "type")]


async def test_what_is_erased_is_in_no_table(history: AsyncHistoryManager, url: str) -> None:
    await history.create_session("secret", user_id="eve")
    await history.append("secret", Message.of("user", "cAnArY"), idempotency_key="cAnArY")

    await history.erase_user("eve")

    with direct(url) as db:
        for table in ("sessions", "records", "calls", "idempotency", "rollup"):
            text = str(db.execute(f"SELECT t::text FROM {table} t").fetchall())
            assert "cAnArY" not in text
            assert "eve" not in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_opens_connections_of_its_own(
    history: AsyncHistoryManager, url: str
) -> None:
    await history.append("chat", Message.of("user", "before"))
    script = anyio.Path(__file__).parents[1] / "data" / "forked_postgres.py"
    import sys

    done = await anyio.run_process([sys.executable, str(script), url], check=False)

    assert done.returncode == 0, done.stderr.decode()
    texts = [getattr(record, "text", "") for record in await history.last("forked", 10)]
    assert texts == ["parent before", "child", "parent after"]
