"""verify() finds each kind of damage, says which, and says nothing of what is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage, Verification, open_history
from asynchistory.storage import findings
from tests.contract.archiving import live, say
from tests.unit.refusals import CANARY

pytestmark = pytest.mark.anyio


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A closed database with everything in it."""
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        await live(history)
        await history.append("secret", Message.of("user", CANARY), idempotency_key=CANARY[:5])
        assert (await history.verify()).ok
    return tmp_path / "x.db"


@contextmanager
def raw(path: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        yield db


async def verified(path: Path) -> Verification:
    async with open_history(path) as history:
        return await history.verify()


async def test_what_is_whole_is_counted(path: Path) -> None:
    found = await verified(path)

    assert (found.ok, found.damaged, found.problems) == (True, (), ())
    async with open_history(path) as history:
        counts = await history.count()
    assert (found.sessions, found.records) == (counts.sessions, counts.records)


SID = "(SELECT sid FROM sessions WHERE id = '{}')"


def of(session: str) -> str:
    return SID.format(session.replace("'", "''"))


#: What is done to the database, and what is said of it.
DAMAGE: dict[str, tuple[str, str]] = {
    "a record is missing": (
        f"DELETE FROM records WHERE sid = {of('cut')} AND seq = 2",
        "session 'cut': record 2 is missing",
    ),
    "records are missing": (
        f"DELETE FROM records WHERE sid = {of('cut')} AND seq IN (2, 3)",
        "session 'cut': records 2 to 3 are missing",
    ),
    "the newest is missing": (
        f"DELETE FROM records WHERE sid = {of('cut')} AND seq = 4",
        "session 'cut': its newest record is 3, and not 4",
    ),
    "a record too many": (
        "UPDATE sessions SET seq = 3 WHERE id = 'cut'",
        "session 'cut': its newest record is 4, and not 3",
    ),
    "a record that a fork shares is missing": (
        f"DELETE FROM records WHERE sid = {of('chat')} AND seq = 2",
        "session 'chat': record 2 is missing",
    ),
    "a record below what it rests on": (
        "INSERT INTO records(sid, seq, type, ts, id, body, crc) "
        f"SELECT {of('fork')}, seq, type, ts, id, body, crc FROM records "
        f"WHERE sid = {of('chat')} AND seq = 1",
        "session 'fork': record 1 does not belong to it",
    ),
    "what it rests on is missing": (
        "UPDATE sessions SET base = 999 WHERE id = 'fork'",
        "session 'fork': the session that its first 9 records rest on is missing",
    ),
    "what it rests on is not said": (
        "UPDATE sessions SET base = NULL WHERE id = 'fork'",
        "session 'fork': it lacks the session that its first 9 records rest on",
    ),
    "what it rests on is shorter": (
        f"UPDATE sessions SET base = {of('empty')} WHERE id = 'fork'",
        "session 'fork': it cannot rest on another session up to seq 9",
    ),
    "it rests on itself": (
        f"UPDATE sessions SET base = {of('fork of fork')} WHERE id = 'fork'",
        "session 'fork': it rests on itself, or on one that does",
    ),
    "a fork of more than it has": (
        "UPDATE sessions SET fork_seq = 99 WHERE id = 'fork'",
        "session 'fork': fork_seq 99 is not within its 14 records",
    ),
    "metadata that is no JSON": (
        "UPDATE sessions SET metadata = '{' WHERE id = 'chat'",
        "session 'chat': its metadata is not a JSON object",
    ),
    "metadata that is no object": (
        "UPDATE sessions SET metadata = '[]' WHERE id = 'chat'",
        "session 'chat': its metadata is not a JSON object",
    ),
    "a call with other numbers": (
        f"UPDATE calls SET input_tokens = 77 WHERE sid = {of('chat')} AND request = 'r1'",
        "session 'chat': its model calls are not those of its records",
    ),
    "a call that is missing": (
        f"DELETE FROM calls WHERE sid = {of('fork')} AND request = 'r3'",
        "session 'fork': its model calls are not those of its records",
    ),
    "a call of no records": (
        f"UPDATE calls SET sid = {of('empty')} WHERE sid = {of('chat')} AND request = 'r1'",
        "session 'empty': its model calls are not those of its records",
    ),
    "a call of what was there before the fork": (
        f"INSERT INTO calls SELECT {of('fork')}, request, provider, model, day, requested, "
        "responded, finish_reason, response_us, first_token_us, usage_rank, input_tokens, "
        "output_tokens, total_tokens, cached_tokens, reasoning_tokens, priced, currency, "
        f"input_cost, output_cost, total_cost FROM calls WHERE sid = {of('chat')} "
        "AND request = 'r1'",
        "session 'fork': its model calls are not those of its records",
    ),
    "records of no session": (
        "UPDATE records SET sid = 999 WHERE sid = " + of("secret"),
        "1 record of a session that is missing",
    ),
    "calls of no session": (
        "UPDATE calls SET sid = 999 WHERE sid = " + of("anew"),
        "1 model call of a session that is missing",
    ),
    "keys of no session": (
        "UPDATE idempotency SET sid = 999 WHERE sid = " + of("cut"),
        "4 keys of a session that is missing",
    ),
    "a key that nothing leads to": (
        f"UPDATE idempotency SET prev = NULL WHERE sid = {of('cut')} AND key = 'after'",
        "session 'cut': nothing leads to 2 of its keys",
    ),
    "keys in a circle": (
        f"UPDATE idempotency SET prev = 'popped' WHERE sid = {of('cut')} AND key = 'after'",
        "session 'cut': nothing leads to 2 of its keys",
    ),
    "a key from the future": (
        "UPDATE idempotency SET epoch = 999 WHERE key = 'made'",
        "session 'cut': the answer of an idempotency key is damaged",
    ),
    "a key of a range that cannot be": (
        "UPDATE idempotency SET first_seq = 99 WHERE key = 'made'",
        "session 'cut': the answer of an idempotency key is damaged",
    ),
    "a key whose records are damaged": (
        "UPDATE idempotency SET removed = CAST(replace(removed, 'after', 'aftex') AS BLOB) "
        "WHERE key = 'popped'",
        "session 'cut': the answer of an idempotency key is damaged",
    ),
    "a key whose records cannot be opened": (
        "UPDATE idempotency SET removed = x'c1' WHERE key = 'popped'",
        "session 'cut': the answer of an idempotency key is damaged",
    ),
    "an epoch that was not drawn": (
        "UPDATE counters SET value = 1 WHERE name = 'epoch'",
        "a session has an epoch that was not drawn yet",
    ),
    "no counter": (
        "DELETE FROM counters",
        "the counter of epochs is missing",
    ),
    "an epoch twice": (
        "UPDATE sessions SET epoch = (SELECT max(epoch) FROM sessions) WHERE id = 'chat'",
        "epochs that several sessions have: 1",
    ),
    "a sum a day that is wrong": (
        "UPDATE rollup SET calls = calls + 1 WHERE (scope, day, model) = "
        "(SELECT scope, day, model FROM rollup LIMIT 1)",
        "sums a day that are not those of the model calls: 1",
    ),
    "sums a day that are missing": (
        "DELETE FROM rollup WHERE scope = 'ubob'",
        "sums a day that are not those of the model calls: 1",
    ),
    "a sum a day of nobody": (
        "INSERT INTO rollup SELECT 'unobody', day, provider, model, currency, reason, calls, "
        "known, input_tokens, output_tokens, total_tokens, cached_tokens, reasoning_tokens, "
        "requested, responded, input_known, input_high, input_low, output_known, output_high, "
        "output_low, total_known, total_high, total_low, response_known, response_us, "
        "first_token_known, first_token_us FROM rollup LIMIT 1",
        "sums a day that are not those of the model calls: 1",
    ),
    "a trigger is missing": (
        "DROP TRIGGER calls_changed",
        "the trigger calls_changed is missing, or not as it was made",
    ),
    "an index is missing": (
        "DROP INDEX sessions_base",
        "the index sessions_base is missing, or not as it was made",
    ),
    "an index without its rows": (
        "PRAGMA writable_schema=ON; "
        "UPDATE sqlite_schema SET sql = sql || ' AND user_id <> ''ann''' "
        "WHERE name = 'sessions_user'; PRAGMA writable_schema=RESET; REINDEX sessions_user; "
        "PRAGMA writable_schema=ON; "
        "UPDATE sqlite_schema SET sql = replace(sql, ' AND user_id <> ''ann''', '') "
        "WHERE name = 'sessions_user'; PRAGMA writable_schema=RESET",
        "SQLite: row 2 missing from index sessions_user",
    ),
    "a value of a wrong type": (
        "UPDATE sessions SET fork_seq = 'text' WHERE id = 'empty'",
        "session 'empty': one of its numbers is none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "problem"), DAMAGE.values(), ids=DAMAGE)
async def test_each_kind_of_damage_is_found(sql: str, problem: str, path: Path) -> None:
    with raw(path) as db:
        db.execute(sql).fetchall()

    found = await verified(path)

    assert not found.ok
    assert problem in found.problems
    assert CANARY not in repr(found)


RECORD = f"WHERE sid = {of('secret')}"
DAMAGED: dict[str, tuple[str, str]] = {
    "a word": (f"UPDATE records SET body = replace(body, '7741', '7742') {RECORD}", "checksum"),
    "the time": (f"UPDATE records SET ts = ts + 1 {RECORD}", "checksum"),
    "the type": (f"UPDATE records SET type = 2 {RECORD}", "checksum"),
    "the id": (f"UPDATE records SET id = zeroblob(16) {RECORD}", "checksum"),
    "the checksum": (f"UPDATE records SET crc = crc + 1 {RECORD}", "checksum"),
    "no body": (f"UPDATE records SET body = '' {RECORD}", "checksum"),
    "other than UTF-8": (f"UPDATE records SET body = CAST(x'ff' AS TEXT) {RECORD}", "checksum"),
}


@pytest.mark.parametrize(("sql", "reason"), DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_record_is_found(sql: str, reason: str, path: Path) -> None:
    with raw(path) as db:
        db.execute(sql)

    found = await verified(path)

    assert [(item.session_id, item.seq, item.reason) for item in found.damaged] == [
        ("secret", 1, reason)
    ]
    assert not found.ok
    assert CANARY not in repr(found)


async def test_a_record_of_another_type_than_it_says_is_found(path: Path) -> None:
    import zlib

    from asynchistory.codec import _pack_head

    with raw(path) as db:
        [(ts, key, body)] = db.execute(f"SELECT ts, id, body FROM records {RECORD}").fetchall()
        crc = zlib.crc32(body.encode(), zlib.crc32(_pack_head(2, ts, key)))
        db.execute(f"UPDATE records SET type = 2, crc = ? {RECORD}", (crc,))

    assert [item.reason for item in (await verified(path)).damaged] == ["type"]


async def test_a_damaged_record_of_a_call_is_told_once_and_not_as_wrong_sums(path: Path) -> None:
    with raw(path) as db:
        db.execute(
            "UPDATE records SET body = replace(body, '\"p\"', '\"q\"') WHERE seq = 2 AND sid = "
            + of("chat")
        )

    found = await verified(path)

    assert [(item.session_id, item.seq) for item in found.damaged] == [("chat", 2)]
    assert found.problems == ()


async def test_what_is_found_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MOST", 5)
    with raw(path) as db:
        db.execute("UPDATE records SET crc = crc + 1")
        db.execute("UPDATE sessions SET metadata = ''")

    found = await verified(path)

    assert len(found.damaged) == len(found.problems) == 5
    faults = found.records + found.sessions
    assert found.problems[-1] == f"{faults - 5 - 4} further faults"


async def test_a_damaged_page_is_a_finding_and_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with open_history(path) as history:
        for number in range(200):
            await history.append("chat", say(f"{number}" * 100))
    with raw(path) as db:
        [(root,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'records'")
        [(size,)] = db.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)

    found = await verified(path)

    assert any(problem.startswith("SQLite: ") for problem in found.problems)
    assert any("sessions could not be ended" in problem for problem in found.problems)


async def test_it_sees_one_moment_while_writes_go_on(tmp_path: Path) -> None:
    async with open_history(tmp_path / "x.db") as history:
        await history.append("s0", say("x"))

        async def write(name: str) -> None:
            for number in range(60):
                await history.append(name, say("x"), idempotency_key=f"{number}")
                if number % 7 == 0:
                    await history.fork(name, f"{name} {number}")
                    await history.pop(name)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(write, f"s{number}")
            for _ in range(10):
                assert (await history.verify()) is not None
                found = await history.verify()
                assert found.ok, found


async def test_a_cancelled_verify_ends(tmp_path: Path) -> None:
    async with open_history(tmp_path / "x.db") as history:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(fill, history, f"s{number}")
        for turns in range(30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(history.verify)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        # Its thread is free again, and its connection can be used.
        for _ in range(8):
            assert (await history.verify()).ok


async def fill(history: AsyncHistoryManager, name: str) -> None:
    await history.append(name, *[say("x" * 100)] * 200)


async def test_it_stops_in_the_middle_of_a_statement(path: Path) -> None:
    from asynchistory.storage.sqlite.stopping import Stop, StoppedError

    stop = Stop()
    with raw(path) as db:
        assert stop.withdraw()
        with pytest.raises(StoppedError), stop.interrupting(db):
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT count(*) FROM n"
            ).fetchall()
        assert db.execute("SELECT 1").fetchall() == [(1,)]


async def test_a_memory_store_is_verified_too() -> None:
    async with open_history("memory://") as history:
        await live(history)
        assert (await history.verify()).ok
        counts = await history.count()
        found = await history.verify()
        assert (found.sessions, found.records) == (counts.sessions, counts.records)

        storage: Any = history.storage
        home = storage._homes["anew"]
        place, row = home.rows[0]
        home.rows[0] = (place, row._replace(body=row.body.replace("new", "old")))
        storage._homes["cut"].rows.pop()
        storage._homes["bob's"].calls.clear()

        found = await history.verify()
        assert [(item.session_id, item.seq) for item in found.damaged] == [("anew", 1)]
        assert len(found.problems) == 2
