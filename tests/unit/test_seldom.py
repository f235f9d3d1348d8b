"""What seldom happens to the SQLite store, each made to happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    BusyError,
    ConfigurationError,
    EpochChangedError,
    ForeignDatabaseError,
    LifecycleError,
    MemoryStorage,
    Message,
    NotOpenError,
    OutcomeUnknownError,
    SQLiteStorage,
    StorageUnavailableError,
)
from asynchistory.codec import encode_record
from asynchistory.manager.base import steadily
from asynchistory.manager.tokens import estimate_tokens
from asynchistory.queries import Appended
from asynchistory.storage.port import Batch
from asynchistory.storage.sqlite import engine as module, schema
from asynchistory.storage.sqlite.engine import Engine
from asynchistory.storage.sqlite.readers import Readers
from asynchistory.storage.sqlite.schema import busy
from asynchistory.storage.sqlite.writes import WriteGroup

ROW = encode_record(Message.of("user", "hello"))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "h.db", durability="full", lock_timeout=30)
    await engine.ready()
    yield engine
    await engine.aclose()


async def outcomes(
    engine: Engine,
    *works: Callable[[WriteGroup], object],
    ended: Callable[[], None] = lambda: None,
) -> list[object]:
    """What each of these ended with, all of them queued at once."""
    found: list[object] = [None] * len(works)

    async def write(place: int) -> None:
        try:
            found[place] = await engine.write(works[place])
        except Exception as error:
            found[place] = error
        ended()

    release = engine._jobs.put
    held: list[Any] = []
    engine._jobs.put = lambda job, **_: not held.append(job)  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        for place in range(len(works)):
            tasks.start_soon(write, place)
            while len(held) == place:
                await anyio.lowlevel.checkpoint()
        with engine._jobs._mutex:
            engine._jobs.writes.extend(held)
        engine._jobs.put = release  # type: ignore[method-assign]
        engine._jobs.ring()
    return found


def append(name: str) -> Callable[[WriteGroup], Appended]:
    return lambda group: group.append(Batch(name, [ROW]))


def begin_but_not(engine: Engine, refused: int) -> None:
    """The ``refused``-th attempt to take the write lock fails."""
    begin, attempts = engine._begin, list[int]()

    def try_to(db: apsw.Connection) -> None:
        attempts.append(1)
        if len(attempts) == refused:
            raise busy(engine.path, 0)
        begin(db)

    engine._begin = try_to  # type: ignore[method-assign]


# -- the writer


@pytest.mark.anyio
async def test_a_write_that_is_done_again_alone_may_not_get_the_lock(engine: Engine) -> None:
    def break_down(_group: WriteGroup) -> None:
        raise ValueError("a mistake of ours")

    engine.counters.recent_commit = 1.0  # so slow a disk is given all at once
    begin_but_not(engine, 3)
    first, second = await outcomes(engine, break_down, append("chat"))

    assert isinstance(first, ValueError)
    assert isinstance(second, BusyError)


@pytest.mark.anyio
async def test_what_is_done_again_without_the_index_may_not_get_the_lock(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet_damage(_group: WriteGroup) -> None:
        raise apsw.CorruptError("fts5: corruption found")

    monkeypatch.setattr(module, "discarded", lambda db, error: True)
    begin_but_not(engine, 2)
    with pytest.raises(BusyError):
        await engine.write(meet_damage)


@pytest.mark.anyio
async def test_who_is_served_does_not_wait_for_another_process_s_lock(engine: Engine) -> None:
    other = apsw.Connection(str(engine.path))
    committed, locked = engine.counters.committed, list[int]()

    def commit_and_lose_the_lock(writes: int, seconds: float) -> None:
        committed(writes, seconds)
        if not locked:
            locked.append(writes)
            other.execute("BEGIN IMMEDIATE")

    def release() -> None:
        if other.in_transaction:
            other.execute("ROLLBACK")

    engine.counters.committed = commit_and_lose_the_lock  # type: ignore[method-assign]
    engine.counters.recent_commit = 0.0  # so quick a disk is given them in two parts
    ended = await outcomes(engine, append("a"), append("b"), append("c"), ended=release)

    other.close()
    assert locked == [2]
    assert all(isinstance(end, Appended) for end in ended)


def test_what_cannot_be_undone_is_unknown(tmp_path: Path) -> None:
    db = apsw.Connection(":memory:")  # without the table that it would change
    assert not Engine._undo(None, db)  # type: ignore[arg-type]
    assert not db.in_transaction


def test_a_file_of_the_parent_is_not_opened_in_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INHERITED", {tmp_path / "h.db"})
    with pytest.raises(LifecycleError, match="after the fork"):
        Engine(tmp_path / "h.db", durability="full", lock_timeout=1)


# -- readers


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def check(self) -> None:
        raise self.error


@pytest.mark.anyio
async def test_look_ups_where_something_is_wrong(engine: Engine) -> None:
    readers = engine._readers
    present = readers._glance_present
    readers._glance_present = Failing(apsw.BusyError("locked"))  # type: ignore[assignment]
    assert readers.glance("SELECT 1", ()) is None
    readers._glance_present = Failing(apsw.IOError("broken"))  # type: ignore[assignment]
    with pytest.raises(StorageUnavailableError):
        readers.glance("SELECT 1", ())
    readers._glance_present = present
    assert readers.glance("SELECT 1", ()) == [(1,)]


@pytest.mark.anyio
async def test_readers_that_are_closed(engine: Engine) -> None:
    readers = Readers(engine.path, "full", 1)
    await anyio.to_thread.run_sync(readers.open)
    await anyio.to_thread.run_sync(readers.close)
    assert readers.glance("SELECT 1", ()) is None
    with pytest.raises(NotOpenError, match="open the history again"):
        await readers.read(lambda db: None)


# -- opening


@pytest.mark.anyio
async def test_opening_waits_for_who_opens_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, attempts = schema._prepare, list[int]()

    def locked_at_first(connection: apsw.Connection, path: Path) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise apsw.BusyError("database is locked")
        prepare(connection, path)

    monkeypatch.setattr(schema, "_prepare", locked_at_first)
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "h.db")) as history:
        await history.append("chat", Message.of("user", "hello"))
    assert len(attempts) == 3


def test_a_header_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError):
        schema._check_header(tmp_path)


def test_a_place_that_cannot_hold_a_log(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="local disk"):
        schema._prepare(apsw.Connection(":memory:"), tmp_path)


def test_another_application_s_tables(tmp_path: Path) -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE theirs(x)")
    with pytest.raises(ForeignDatabaseError):
        schema._check_owner(db, tmp_path)


def test_what_a_driver_s_errors_mean(tmp_path: Path) -> None:
    for error, meaning in [
        (apsw.NotADBError("x"), ForeignDatabaseError),
        (apsw.BusyError("x"), BusyError),
        (apsw.ReadOnlyError("x"), StorageUnavailableError),
    ]:
        assert type(schema.translate(error, tmp_path)) is meaning


def test_a_migration_that_ends_the_transaction_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", ["ROLLBACK", "no SQL at all"])
    db = apsw.Connection(":memory:")
    with pytest.raises(apsw.SQLError):
        schema._migrate(db, tmp_path)
    assert not db.in_transaction


def test_a_durability_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'full' or 'relaxed'"):
        SQLiteStorage(tmp_path / "h.db", durability="some")  # type: ignore[arg-type]


# -- what is said of it


@pytest.mark.anyio
async def test_the_health_of_a_file_that_is_gone(tmp_path: Path) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "h.db")) as history:
        assert (await history.health()).ok
        assert history.get_store_stats().commits == 1
        (tmp_path / "h.db").rename(tmp_path / "elsewhere.db")
        health = await history.health()
        (tmp_path / "elsewhere.db").rename(tmp_path / "h.db")
        assert not health.ok
        assert "deleted or replaced" in (health.problem or "")


@pytest.mark.anyio
async def test_the_health_of_the_memory() -> None:
    async with AsyncHistoryManager(MemoryStorage()) as history:
        assert (await history.health()).ok
        assert history.get_store_stats().commits == 0


@pytest.mark.anyio
async def test_an_unknown_outcome_names_the_key() -> None:
    class Doubtful(MemoryStorage):
        async def replace(self, batch: Batch) -> Appended:
            raise OutcomeUnknownError(None)

    async with AsyncHistoryManager(Doubtful()) as history:
        with pytest.raises(OutcomeUnknownError, match="'my-key'"):
            await history.replace("chat", Message.of("user", "hi"), idempotency_key="my-key")


@pytest.mark.anyio
async def test_a_request_keeps_the_id_that_it_is_given() -> None:
    async with AsyncHistoryManager(MemoryStorage()) as history:
        request = await history.record_llm_request(
            "chat", provider="p", model="m", request_id="mine"
        )
        assert request.request_id == "mine"


def test_what_is_sent_besides_the_parts_counts() -> None:
    plain = Message.of("assistant", "found")
    raw = {"role": "assistant", "content": [{"type": "found_by_them", "text": "x" * 4000}]}
    whole = Message.of("assistant", "found", raw=raw, raw_format="anthropic")
    assert estimate_tokens(whole) > estimate_tokens(plain) + 900


@pytest.mark.anyio
async def test_a_read_that_is_rewritten_under_each_time_gives_up() -> None:
    tries: list[int] = []

    async def read() -> None:
        tries.append(1)
        raise EpochChangedError("chat")

    with pytest.raises(EpochChangedError):
        await steadily(read)
    assert len(tries) == 5
