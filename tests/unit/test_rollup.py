"""The sums a day, which triggers keep, are those of the calls that there are."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage, TailCache
from asynchistory.storage.sqlite.migrations import MIGRATIONS
from asynchistory.storage.sqlite.schema import APPLICATION_ID
from tests.contract.books import Books, a_record

PLACE = ("day", "provider", "model", "currency", "reason")


def sums(db: apsw.Connection) -> list[str]:
    columns = [row[1] for row in db.execute("PRAGMA table_info(rollup)")]
    return [name for name in columns if name not in ("scope", *PLACE)]


def kept(db: apsw.Connection) -> set[tuple[Any, ...]]:
    """The rollup."""
    names = ", ".join(("scope", *PLACE, *sums(db)))
    return _unique(db.execute(f"SELECT {names} FROM rollup"))


def computed(db: apsw.Connection) -> set[tuple[Any, ...]]:
    """The same from the calls: of everyone, and of each user."""
    place, added = ", ".join(PLACE), ", ".join(f"sum({name})" for name in sums(db))
    return _unique(
        db.execute(
            f"SELECT '', {place}, {added} FROM call_sums GROUP BY {place} "
            f"UNION ALL SELECT scope, {place}, {added} FROM call_sums GROUP BY scope, {place}"
        )
    )


def _unique(found: apsw.Cursor) -> set[tuple[Any, ...]]:
    every = found.fetchall()
    assert len(set(every)) == len(every)
    return set(every)


def assert_kept(db: apsw.Connection) -> int:
    """The rollup is what the calls give; returns how many rows it has."""
    rows = kept(db)
    assert rows == computed(db)
    assert all(type(value) is int for row in rows for value in row[len(PLACE) + 1 :])
    return len(rows)


# -- changes through the manager


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
async def history(path: Path) -> AsyncIterator[AsyncHistoryManager]:
    async with AsyncHistoryManager(SQLiteStorage(path), TailCache(), level="fresh") as history:
        yield history


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(6))
async def test_the_rollup_follows_every_change(
    history: AsyncHistoryManager, path: Path, seed: int
) -> None:
    books = Books(history, random.Random(seed))
    most = 0
    with closing(apsw.Connection(str(path))) as db:
        for _ in range(3):
            await books.create()
        for _ in range(80):
            await books.step()
            most = max(most, assert_kept(db))
        assert most > 20
        await history.erase_user("ann")
        assert_kept(db)
        assert not db.execute("SELECT 1 FROM rollup WHERE scope = 'uann'").fetchall()
        for session in await history.list_sessions():
            await history.delete_session(session.id)
        assert assert_kept(db) == 0


@pytest.mark.anyio
async def test_a_refused_change_leaves_the_rollup(history: AsyncHistoryManager, path: Path) -> None:
    draw = random.Random(1)
    await history.append("chat", *[a_record(draw) for _ in range(20)])
    with closing(apsw.Connection(str(path))) as db:
        before = kept(db)
        for call in (
            lambda: history.append("chat", a_record(draw), expected_seq=1),
            lambda: history.replace("chat", expected_seq=1),
            lambda: history.truncate("chat", 0, epoch=10**6),
            lambda: history.pop("chat", 20, expected_seq=1),
            lambda: history.fork("chat", at_seq=21),
        ):
            with pytest.raises(Exception, match="chat"):
                await call()
        assert kept(db) == before == computed(db)


# -- the triggers alone


@pytest.fixture
def schema() -> Iterator[apsw.Connection]:
    """A database with our tables, and three sessions of two users and nobody."""
    with closing(apsw.Connection(":memory:")) as db:
        for step in MIGRATIONS:
            db.execute(step)
        _add_sessions(db)
        yield db


def _add_sessions(db: apsw.Connection) -> None:
    db.executemany(
        "INSERT INTO sessions(sid, id, user_id, created, updated, epoch) VALUES(?,?,?,0,0,?)",
        [(1, "a", "ann", 1), (2, "b", "bob", 2), (3, "c", None, 3)],
    )


def _call(draw: random.Random) -> dict[str, Any]:
    """A row of calls; negative amounts and amounts past the half are among them."""
    number = lambda: draw.choice([None, 0, 1, draw.randrange(1000)])  # noqa: E731
    money = lambda: draw.choice([None, 0, -1, 9 * 10**18, draw.randrange(10**13)])  # noqa: E731
    return {
        "sid": draw.randint(1, 3), "request": f"r{draw.randrange(6)}",
        "provider": draw.choice("pq"), "model": draw.choice("mn"), "day": draw.randint(-1, 1),
        "requested": draw.randint(0, 1), "responded": draw.randint(0, 1),
        "finish_reason": draw.choice([None, "", "stop"]),
        "response_us": number(), "first_token_us": number(), "usage_rank": draw.randint(0, 2),
        "input_tokens": number(), "output_tokens": number(), "total_tokens": number(),
        "cached_tokens": number(), "reasoning_tokens": number(), "priced": draw.randint(0, 1),
        "currency": draw.choice([None, "USD"]), "input_cost": money(), "output_cost": money(),
        "total_cost": money(),
    }  # fmt: skip


def _put(db: apsw.Connection, call: dict[str, Any]) -> None:
    """Insert a call, or update all of the one that is there."""
    names = ", ".join(call)
    changes = ", ".join(f"{name} = excluded.{name}" for name in call)
    db.execute(
        f"INSERT INTO calls({names}) VALUES({', '.join('?' * len(call))}) "
        f"ON CONFLICT DO UPDATE SET {changes}",
        tuple(call.values()),
    )


@pytest.mark.parametrize("seed", range(10))
def test_triggers_keep_the_rollup_through_any_sql(schema: apsw.Connection, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        action = draw.choice(["put", "put", "put", "delete", "owner", "clear", "model"])
        values = (draw.randint(1, 3), f"r{draw.randrange(6)}")
        if action == "put":
            _put(schema, _call(draw))
        elif action == "delete":
            schema.execute("DELETE FROM calls WHERE sid = ? AND request = ?", values)
        elif action == "clear":
            schema.execute("DELETE FROM calls WHERE sid = ?", values[:1])
        elif action == "model":
            schema.execute("UPDATE calls SET model = 'o' WHERE sid = ?", values[:1])
        else:
            owner = draw.choice([None, "ann", "bob", "eve"])
            schema.execute("UPDATE sessions SET user_id = ? WHERE sid = ?", (owner, values[0]))
        assert_kept(schema)
    schema.execute("DELETE FROM calls")
    assert assert_kept(schema) == 0


def test_what_is_rolled_back_is_not_summed(schema: apsw.Connection) -> None:
    draw = random.Random(1)
    _put(schema, _call(draw))
    before = kept(schema)

    schema.execute("BEGIN")
    for _ in range(10):
        _put(schema, _call(draw))
    assert kept(schema) != before
    schema.execute("ROLLBACK")

    assert kept(schema) == before == computed(schema)


@pytest.mark.anyio
async def test_a_file_of_the_first_schema_gets_its_rollup(path: Path) -> None:
    draw = random.Random(2)
    with closing(apsw.Connection(str(path))) as db:
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(MIGRATIONS[0])
        db.execute("PRAGMA user_version=1")
        _add_sessions(db)
        for _ in range(30):
            _put(db, _call(draw))

    async with AsyncHistoryManager(SQLiteStorage(path), TailCache()) as history:
        with closing(apsw.Connection(str(path))) as db:
            assert assert_kept(db) > 5
            await history.append("a", *[a_record(draw) for _ in range(10)])
            await history.update_session("b", user_id="ann")
            await history.delete_session("c")
            assert assert_kept(db) > 5
