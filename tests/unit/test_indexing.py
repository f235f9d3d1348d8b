"""The writer keeps the search index up to date in its idle time, and at no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel
import apsw
import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from asynchistory.storage.sqlite import indexing, search_index

pytestmark = pytest.mark.anyio


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[AsyncHistoryManager]:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "h.db")) as history:
        yield history


async def fill(history: AsyncHistoryManager, count: int) -> None:
    await history.append("chat", *[Message.of("user", f"word {number}") for number in range(count)])


async def ask(history: AsyncHistoryManager, question: Callable[[apsw.Connection], int]) -> int:
    storage = history.storage
    assert isinstance(storage, SQLiteStorage)
    return await storage._opened().read(question)


async def until(
    history: AsyncHistoryManager, question: Callable[[apsw.Connection], int], answer: int
) -> None:
    with anyio.fail_after(60):
        while await ask(history, question) != answer:
            await anyio.lowlevel.checkpoint()


async def test_an_index_is_made_after_the_first_search_and_kept(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FEW", 50)
    monkeypatch.setattr(indexing, "ENOUGH", 0)
    await fill(history, 120)
    assert await ask(history, search_index.exists) == 0

    assert len(await history.search("word 11")) == 11
    await until(history, search_index.behind, 0)
    assert len(await history.search("word 11")) == 11
    await fill(history, 12)  # and nobody searches
    await until(history, search_index.behind, 0)

    assert len(await history.search("word 11")) == 12


async def test_a_small_store_needs_none(history: AsyncHistoryManager) -> None:
    await fill(history, 20)
    assert len(await history.search("word")) == 20
    await fill(history, 1)
    assert await ask(history, search_index.exists) == 0


async def test_a_file_that_has_an_index_is_kept_up_to_date_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FEW", 5)
    monkeypatch.setattr(indexing, "ENOUGH", 0)
    path = tmp_path / "h.db"
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await fill(history, 10)
        await history.search("word")
        await until(history, search_index.behind, 0)
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await fill(history, 10)
        await until(history, search_index.behind, 0)
        assert len(await history.search("word 3")) == 2


async def test_an_index_that_cannot_be_brought_up_to_date_costs_nobody_a_write(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(db: apsw.Connection, most: int) -> bool:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(indexing, "FEW", 5)
    monkeypatch.setattr(indexing, "ENOUGH", 0)
    monkeypatch.setattr(search_index, "update", fail)
    await fill(history, 10)
    assert len(await history.search("word")) == 10
    await fill(history, 10)
    assert len(await history.search("word 3")) == 2


async def test_a_damaged_index_is_thrown_away(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FEW", 5)
    monkeypatch.setattr(indexing, "ENOUGH", 0)
    await fill(history, 10)
    await history.search("word")
    await until(history, search_index.behind, 0)

    def fail(db: apsw.Connection, most: int) -> bool:
        raise apsw.CorruptError("damaged")

    with monkeypatch.context() as broken:
        broken.setattr(search_index, "update", fail)
        broken.setattr(search_index, "is_damage", lambda error: True)
        await fill(history, 1)
        await until(history, search_index.exists, 0)
    assert len(await history.search("word 3")) == 1


async def test_a_few_records_are_read_and_not_indexed(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FEW", 5)
    await fill(history, 300)
    await history.search("word")
    await until(history, lambda db: search_index.behind(db) <= indexing.ENOUGH, True)

    behind = await ask(history, search_index.behind)
    await fill(history, 1)
    await history.search("word")

    assert await ask(history, search_index.behind) == behind + 1


async def test_closing_does_not_wait_for_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FEW", 5)
    path = tmp_path / "h.db"
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await fill(history, 20_000)
        await history.search("word")
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        assert await ask(history, search_index.behind) > 10_000


async def test_records_can_be_deleted_where_the_index_is_damaged(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(indexing, "FEW", 5)
    monkeypatch.setattr(indexing, "ENOUGH", 0)
    await history.create_session("chat", user_id="ann")
    await fill(history, 10)
    await history.search("word")
    await until(history, search_index.behind, 0)
    with closing(apsw.Connection(str(tmp_path / "h.db"))) as other:
        other.execute("DELETE FROM search_data")

    assert (await history.truncate("chat", 5)).removed == 5
    assert len(await history.search("word")) == 5
    assert (await history.erase_user("ann")).records == 5
