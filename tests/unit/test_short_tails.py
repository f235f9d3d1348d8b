"""A short tail is read in the caller's own thread while that is quick, and by a reader if not."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from asynchistory.storage.sqlite import readers, reads

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(tmp_path / "h.db")
    async with AsyncHistoryManager(storage) as history:
        texts = [str(number) for number in range(1, 8)]
        await history.append("chat", *(Message.of("user", text) for text in texts))
        yield storage


async def texts(storage: SQLiteStorage, limit: int, session_id: str = "chat") -> list[str]:
    tail = await storage.tail(session_id, limit)
    assert tail is not None
    return [record.text for record in tail.records if isinstance(record, Message)]


def readers_of(storage: SQLiteStorage) -> readers.Readers:
    assert storage._engine is not None
    return storage._engine._readers


def started(storage: SQLiteStorage) -> int:
    return len(readers_of(storage)._threads)


async def test_it_starts_no_thread(storage: SQLiteStorage) -> None:
    assert await texts(storage, 3) == ["5", "6", "7"]
    assert await texts(storage, 100) == [str(number) for number in range(1, 8)]
    assert await texts(storage, 0) == []
    assert started(storage) == 0


async def test_a_long_one_goes_to_a_thread(storage: SQLiteStorage) -> None:
    assert len(await texts(storage, reads.SHORT + 1)) == 7
    assert started(storage) == 1


async def test_a_missing_session_has_none(storage: SQLiteStorage) -> None:
    assert await storage.tail("nobody", 3) is None


async def test_a_large_record_goes_to_a_thread(storage: SQLiteStorage) -> None:
    history = AsyncHistoryManager(storage)
    large = "x" * reads.SMALL
    await history.append("chat", Message.of("user", large), Message.of("user", "9"))
    assert await texts(storage, 1) == ["9"]
    assert started(storage) == 0
    assert await texts(storage, 3) == ["7", large, "9"]
    assert started(storage) == 1


async def test_what_a_fork_shares_is_read_by_a_thread(storage: SQLiteStorage) -> None:
    history = AsyncHistoryManager(storage)
    await history.fork("chat", "branch", at_seq=5)
    await history.append("branch", Message.of("user", "own"))
    assert await texts(storage, 1, "branch") == ["own"]
    assert started(storage) == 0
    assert await texts(storage, 3, "branch") == ["4", "5", "own"]
    assert started(storage) == 1


async def test_after_slow_ones_the_next_go_to_threads(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = readers.QUICK
    monkeypatch.setattr(readers, "QUICK", 0)
    assert await texts(storage, 2) == ["6", "7"]
    assert started(storage) == 1
    found = readers_of(storage)

    def untried(after: float) -> int:
        """How many are not tried, until one is that takes no longer than ``after``."""
        monkeypatch.setattr(readers, "QUICK", after)
        number = 0
        while found._reticence:
            assert found.glimpse(reads.SHORT_TAIL, ("chat", 2)) is None
            number += 1
        rows = found.glimpse(reads.SHORT_TAIL, ("chat", 2))
        assert (rows is None) == (after == 0)
        return number

    assert [untried(0) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 128, 128]
    assert [untried(quick) for _ in range(2)] == [128, 0]
    untried(0)  # and after a quick one it begins anew
    assert untried(0) == 1


async def test_it_does_not_wait_while_another_thread_looks(storage: SQLiteStorage) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with readers_of(storage)._glance_inside:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30)
        assert await texts(storage, 2) == ["6", "7"]
        version = await storage.version("chat")
        assert version is not None
        assert version.seq == 7
        assert started(storage) > 0
    finally:
        done.set()
        thread.join()


async def test_a_task_that_reads_on_and_on_lets_others_run(storage: SQLiteStorage) -> None:
    turns: list[str] = []

    async def read(name: str) -> None:
        for _ in range(5):
            await storage.tail("chat", 2)
            turns.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, "a")
        tasks.start_soon(read, "b")
    assert started(storage) == 0
    assert turns not in (["a"] * 5 + ["b"] * 5, ["b"] * 5 + ["a"] * 5)


async def test_it_can_be_cancelled_before_it_reads(storage: SQLiteStorage) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await storage.tail("chat", 2)
        pytest.fail("it was not cancelled")
    assert scope.cancelled_caught
