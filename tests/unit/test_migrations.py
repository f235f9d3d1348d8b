"""Databases of every earlier schema open with all that they hold, or stay as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import apsw
import msgspec
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Message,
    SQLiteStorage,
    StorageUnavailableError,
    open_history,
)
from asynchistory.codec import digest, encode_json, encode_record
from asynchistory.storage.calls import CallFacts, calls_in
from asynchistory.storage.sqlite.migrations import MIGRATIONS, SCHEMA_VERSION
from asynchistory.storage.sqlite.schema import APPLICATION_ID
from tests.unit.data.make_schema1 import everything, talk

DATA = Path(__file__).with_name("data")
START = 1_767_000_000_000_000


@contextmanager
def database(path: Path, version: int) -> Iterator[apsw.Connection]:
    """A new database of an earlier schema, without its tables."""
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("journal_mode", "wal")
        with db:
            yield db
            db.pragma("user_version", version)


def real_1(path: Path) -> dict[str, Any]:
    """The database that schema1.sql is; returns what the version that made it read from it."""
    sql = (DATA / "schema1.sql").read_text(encoding="utf-8")
    body = sql.removeprefix("BEGIN TRANSACTION;\n").removesuffix("COMMIT;\n")
    with database(path, 1) as db:
        db.execute(body).fetchall()
    read: dict[str, Any] = json.loads((DATA / "schema1.json").read_bytes())
    return read


def made_1(path: Path) -> None:
    """Schema 1 from its migration, with rows as its version wrote them."""
    with database(path, 1) as db:
        db.execute(MIGRATIONS[0]).fetchall()
        for number, (name, owner) in enumerate(
            [("a", "ann"), ("b", "bob"), ("c", None), ("ann's", "ann"), ("empty", "ann")]
        ):
            records = [] if name == "empty" else [*talk(name, number), *talk(name, number + 1)]
            rows = [encode_record(record) for record in records]
            sid, epoch, moment = number * 2 + 1, number + 1, START + number
            metadata = encode_json({"n": number}, "metadata")
            db.execute(
                "INSERT INTO sessions(sid, id, user_id, title, metadata, created, updated, epoch, "
                "seq) VALUES(?,?,?,?,?,?,?,?,?)",
                (sid, name, owner, f"t{number}", metadata, moment, moment + 9, epoch, len(rows)),
            )
            db.executemany(
                "INSERT INTO records(sid, seq, type, ts, id, body, crc) VALUES(?,?,?,?,?,?,?)",
                [(sid, seq, *row) for seq, row in enumerate(rows, 1)],
            )
            facts = calls_in((row.type, row.timestamp, row.body) for row in rows)
            db.executemany(
                f"INSERT INTO calls VALUES({','.join('?' * (len(CallFacts._fields) + 1))})",
                [(sid, *call) for call in facts.values()],
            )
            half = len(talk(name, number)) if rows else 0
            for first, last in [(1, half), (half + 1, len(rows))] if rows else []:
                content = digest("append", rows[first - 1 : last])
                db.execute(
                    "INSERT INTO idempotency VALUES(?,?,?,?,?,?)",
                    (sid, f"{name} {first}", content, epoch, first, last),
                )
        db.execute("UPDATE counters SET value = 7 WHERE name = 'epoch'")


#: How a database of each earlier schema is made.
EARLIER: dict[int, Callable[[Path], object]] = {1: made_1}


def test_every_earlier_schema_is_tested() -> None:
    assert list(EARLIER) == list(range(1, SCHEMA_VERSION))


def plain(read: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(read))
    return found


def assert_has(now: Any, before: Any, place: str = "") -> None:
    """All that was there is there; what a later version adds may be there too."""
    if isinstance(before, dict):
        for name, value in before.items():
            assert name in now, place
            assert_has(now[name], value, f"{place}.{name}")
    elif isinstance(before, list):
        assert len(now) == len(before), place
        for number, (one, other) in enumerate(zip(now, before, strict=True)):
            assert_has(one, other, f"{place}[{number}]")
    else:
        assert now == before, place


# -- what was there is there


@pytest.mark.anyio
async def test_a_database_that_schema_1_really_made_reads_as_it_did(tmp_path: Path) -> None:
    before = real_1(tmp_path / "x.db")

    async with open_history(tmp_path / "x.db") as history:
        assert_has(plain(await everything(history)), before)
        assert (await history.verify()).ok
        for session in ("mia's", "ravi", "nobody's"):
            for number in (1, 3):
                records = talk(session, number)
                again = await history.append(
                    session, *records, idempotency_key=f"{session} {number}"
                )
                assert again.replayed
                assert again.last_seq - again.first_seq + 1 == len(records)
        assert_has(plain(await everything(history)), before)


@pytest.mark.anyio
@pytest.mark.parametrize("version", EARLIER)
async def test_an_earlier_schema_opens_with_all_that_it_holds(version: int, tmp_path: Path) -> None:
    EARLIER[version](tmp_path / "x.db")

    async with open_history(tmp_path / "x.db") as history:
        assert (await history.verify()).ok
        read = await everything(history)
    assert [session.id for session in read["sessions"]] == ["a", "b", "c", "ann's", "empty"]
    assert [session.epoch for session in read["sessions"]] == [1, 2, 3, 4, 5]
    assert [session.metadata["n"] for session in read["sessions"]] == [0, 1, 2, 3, 4]
    for number, name in enumerate(["a", "b", "c", "ann's"]):
        wanted = [*talk(name, number), *talk(name, number + 1)]
        assert [encode_record(record).body for record in read["records"][name]] == [
            encode_record(record).body for record in wanted
        ]

    # What is counted is what a store counts that was given the same records today.
    async with open_history("memory://") as today:
        for session in read["sessions"]:
            await today.create_session(session.id, user_id=session.user_id)
            if read["records"][session.id]:
                await today.append(session.id, *read["records"][session.id])
        counted = await everything(today)
    for figures in ("tokens", "costs", "llm", "count"):
        assert read[figures] == counted[figures]


@pytest.mark.anyio
@pytest.mark.parametrize("version", EARLIER)
async def test_an_earlier_database_is_as_good_as_a_new_one(version: int, tmp_path: Path) -> None:
    EARLIER[version](tmp_path / "x.db")

    async with open_history(tmp_path / "x.db") as history:
        half = len(talk("a", 0))
        again = await history.append("a", *talk("a", 1), idempotency_key=f"a {half + 1}")
        assert (again.replayed, again.first_seq) == (True, half + 1)
        first = await history.append("a", *talk("a", 7), idempotency_key="new")
        assert first.first_seq == 2 * half + 1 - (2 * half - again.last_seq)
        assert (await history.append("fresh", Message.of("user", "x"))).epoch > 7
        await history.fork("a", "fork", at_seq=3)
        await history.pop("a", 2, idempotency_key="popped")
        await history.update_session("b", user_id="ann")
        await history.delete_session("c")
        assert (await history.verify()).ok
    with closing(apsw.Connection(str(tmp_path / "x.db"))) as db:
        assert db.pragma("user_version") == SCHEMA_VERSION
        assert db.execute("SELECT count(*) FROM idempotency WHERE sid = 5").fetchall() == [(0,)]


@pytest.mark.anyio
async def test_several_open_it_at_once(tmp_path: Path) -> None:
    before = real_1(tmp_path / "x.db")

    async def use() -> None:
        # Each object has threads and connections of its own, as if it were another process.
        async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
            assert_has(plain(await everything(history)), before)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(use)


# -- interrupted half way


def statements() -> int:
    """How many statements lead from schema 1 to this one."""
    count = 0

    def trace(*_: object) -> bool:
        nonlocal count
        count += 1
        return True

    with closing(apsw.Connection(":memory:")) as db:
        db.execute(MIGRATIONS[0]).fetchall()
        db.exec_trace = trace
        for step in MIGRATIONS[1:]:
            db.execute(step).fetchall()
    return count


def contents(path: Path) -> Any:
    """The schema and each row of a database."""
    with closing(apsw.Connection(str(path))) as db:
        schema = db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        tables = [name for name, sql in schema if sql and sql.startswith("CREATE TABLE")]
        rows = {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
        return db.pragma("user_version"), schema, rows


def stop_at(number: int) -> Callable[[apsw.Connection], None]:
    """What has each new connection fail at the so-manieth statement of its transaction."""

    def hook(db: apsw.Connection) -> None:
        count = 0

        def trace(_: object, sql: str, __: object) -> bool:
            nonlocal count
            count += db.in_transaction
            return count != number

        db.exec_trace = trace

    return hook


#: Three looks at whose file it is come before them; the new version and the COMMIT come after.
AROUND = 5


@pytest.mark.parametrize("number", range(1, statements() + AROUND + 1))
def test_a_migration_that_fails_half_way_leaves_the_old_schema(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = real_1(tmp_path / "x.db")
    held = contents(tmp_path / "x.db")
    assert held[0] == 1

    async def refused() -> None:
        with pytest.raises(StorageUnavailableError):
            async with open_history(tmp_path / "x.db"):
                pytest.fail("it was opened")

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, stop_at(number)])
    anyio.run(refused)
    monkeypatch.undo()

    assert contents(tmp_path / "x.db") == held
    anyio.run(check, tmp_path / "x.db", before)


async def check(path: Path, before: dict[str, Any]) -> None:
    async with open_history(path) as history:
        assert_has(plain(await everything(history)), before)
        assert (await history.verify()).ok


# Opens argv[1], and is killed at the statement argv[2] of the migration.
KILLED = """
import os, signal, sys, anyio, apsw
from asynchistory import open_history

def hook(db):
    count = 0
    def trace(cursor, sql, bindings):
        nonlocal count
        count += db.in_transaction
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    db.exec_trace = trace

apsw.connection_hooks.append(hook)

async def main():
    async with open_history(sys.argv[1]):
        pass

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("number", [4, statements() // 2, statements() + AROUND])
def test_a_process_that_is_killed_half_way_leaves_the_old_schema(
    number: int, tmp_path: Path
) -> None:
    before = real_1(tmp_path / "x.db")

    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "x.db"), str(number)],
        capture_output=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == -9, done.stderr
    assert contents(tmp_path / "x.db")[0] == 1
    anyio.run(check, tmp_path / "x.db", before)
