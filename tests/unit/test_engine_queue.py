"""The writer's queue: its bound, its groups, its chores, and what it remembers of sessions."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import apsw
import pytest

from asynchistory import BusyError, Message, StorageUnavailableError
from asynchistory.codec import encode_record
from asynchistory.storage.port import Batch
from asynchistory.storage.sqlite import engine as module, jobs
from asynchistory.storage.sqlite.engine import Engine
from asynchistory.storage.sqlite.sql import scalar
from asynchistory.storage.sqlite.writes import WriteGroup

pytestmark = pytest.mark.anyio

ROW = encode_record(Message.of("user", "hello"))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "h.db", durability="full", lock_timeout=30)
    await engine.ready()
    yield engine
    await engine.aclose()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The database's write lock, so that what is written stays in the queue."""
    with closing(apsw.Connection(str(path))) as db:
        db.set_busy_timeout(10_000)
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def append(session_id: str) -> Callable[[WriteGroup], object]:
    return lambda group: group.append(Batch(session_id, [ROW]))


async def seqs(engine: Engine, session_id: str) -> list[int]:
    sql = "SELECT r.seq FROM records r JOIN sessions s USING(sid) WHERE s.id = ? ORDER BY 1"
    return await engine.read(lambda db: [seq for (seq,) in db.execute(sql, (session_id,))])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_the_queue_is_bounded_and_all_get_their_turn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_QUEUED", 8)
    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            for number in range(30):
                tasks.start_soon(engine.write, append(f"chat-{number % 3}"))
            await until(lambda: engine.statistics().waiting == 22)
            assert engine.statistics().queued == 8
    for number in range(3):
        assert await seqs(engine, f"chat-{number}") == list(range(1, 11))
    assert engine.statistics().queued == engine.statistics().waiting == 0


async def test_who_is_cancelled_while_there_is_no_room_has_stored_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_QUEUED", 1)
    ended: list[bool] = []

    async def give_up(scope: anyio.CancelScope) -> None:
        with scope:
            await engine.write(append("crowd"))
        ended.append(scope.cancelled_caught)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            tasks.start_soon(engine.write, append("chat"))
            await until(lambda: engine.statistics().queued == 1)
            tasks.start_soon(give_up, scope)
            await until(lambda: engine.statistics().waiting == 1)
            scope.cancel()
            await until(lambda: bool(ended))
    assert ended == [True]
    assert await seqs(engine, "chat") == [1]
    assert await seqs(engine, "crowd") == []


async def test_closing_serves_who_waited_for_room_with_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_QUEUED", 1)
    told: list[str] = []

    async def wait() -> None:
        with pytest.raises(module.NotOpenError):
            await engine.write(append("late"))
        told.append("closed")

    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            tasks.start_soon(engine.write, append("chat"))
            await until(lambda: engine.statistics().queued == 1)
            tasks.start_soon(wait)
            await until(lambda: engine.statistics().waiting == 1)
            engine.stop()
    assert told == ["closed"]


async def test_a_quick_disk_takes_the_callers_in_two_halves(engine: Engine) -> None:
    engine.counters.recent_commit = 0.0
    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            for number in range(100):
                tasks.start_soon(engine.write, append(f"chat-{number}"))
            await until(lambda: engine.statistics().queued == 100)
            engine.counters = module.Counters()
    assert engine.statistics().largest_group == 50


async def test_a_slow_disk_takes_all_in_one_commit(engine: Engine) -> None:
    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            for number in range(100):
                tasks.start_soon(engine.write, append(f"chat-{number}"))
            await until(lambda: engine.statistics().queued == 100)
            engine.counters.recent_commit = 10.0
    assert engine.statistics().largest_group == 100


async def test_a_lock_that_is_not_let_go_fails_all_who_wait(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "h.db", durability="full", lock_timeout=0.05)
    await engine.ready()
    failed: list[BusyError] = []

    async def write(number: int) -> None:
        with pytest.raises(BusyError, match="locked") as caught:
            await engine.write(append(f"chat-{number}"))
        failed.append(caught.value)

    with held(engine.path):
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(write, number)
    assert len(failed) == 40
    await engine.write(append("chat-0"))
    assert await seqs(engine, "chat-0") == [1]
    await engine.aclose()


async def test_what_others_wrote_is_seen_by_the_next_append(engine: Engine) -> None:
    other = Engine(engine.path, durability="full", lock_timeout=30)
    for _ in range(5):
        await engine.write(append("chat"))
        await other.write(append("chat"))
    assert await seqs(engine, "chat") == list(range(1, 11))
    await other.aclose()


async def test_what_a_failed_group_did_is_forgotten(engine: Engine) -> None:
    def fail(group: WriteGroup) -> None:
        group.append(Batch("chat", [ROW, ROW]))
        raise RuntimeError("a bug")

    await engine.write(append("chat"))
    with pytest.raises(RuntimeError):
        await engine.write(fail)
    with pytest.raises(RuntimeError):
        await engine.write(lambda group: fail(group) or group.append(Batch("new", [ROW])))
    await engine.write(append("chat"))
    await engine.write(append("new"))
    assert await seqs(engine, "chat") == [1, 2]
    assert await seqs(engine, "new") == [1]


async def test_one_that_fails_does_not_take_its_group_along(engine: Engine) -> None:
    def fail(group: WriteGroup) -> None:
        raise RuntimeError("a bug")

    failed: list[str] = []

    async def write_wrongly() -> None:
        with pytest.raises(RuntimeError):
            await engine.write(fail)
        failed.append("told")

    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            for number in range(9):
                tasks.start_soon(engine.write, append(f"chat-{number}"))
                tasks.start_soon(write_wrongly)
            await until(lambda: engine.statistics().queued == 18)
    assert len(failed) == 9
    for number in range(9):
        assert await seqs(engine, f"chat-{number}") == [1]


async def test_a_chore_is_done_between_transactions(engine: Engine) -> None:
    threads: list[str] = []

    def work(db: apsw.Connection) -> bool:
        threads.append(threading.current_thread().name)
        return db.in_transaction

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(engine.write, append(f"chat-{number}"))
        assert await engine.chore(work) is False
    assert threads == ["asynchistory-writer"]


async def test_a_chore_that_fails_is_told_in_our_words(engine: Engine) -> None:
    with pytest.raises(StorageUnavailableError):
        await engine.chore(lambda db: db.execute("SELECT * FROM nowhere"))
    await engine.write(append("chat"))


async def test_it_counts_its_commits(engine: Engine) -> None:
    before = engine.statistics()
    await engine.write(append("chat"))
    after = engine.statistics()
    assert after.commits == before.commits + 1
    assert after.writes == before.writes + 1
    assert after.last_commit is not None


async def test_the_log_may_grow_longer_while_many_write(engine: Engine) -> None:
    def log(db: apsw.Connection) -> int:
        pages: int = scalar(db, "PRAGMA wal_autocheckpoint")
        return pages

    many = 4 * module.MANY
    assert await engine.chore(log) == module.LOG
    async with anyio.create_task_group() as tasks:
        with held(engine.path):
            for number in range(many):
                tasks.start_soon(engine.write, append(f"chat-{number}"))
            await until(lambda: len(engine._jobs.writes) == many)
    assert await engine.chore(log) == module.LONG_LOG
    await engine.write(append("chat"))
    assert await engine.chore(log) == module.LOG


async def test_nobody_waits_for_room_that_there_is() -> None:
    with anyio.fail_after(30):
        await jobs.Jobs().room()
