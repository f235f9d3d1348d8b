"""The contract of reads: pages, cursors, filters, tails, watches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from asynchistory.errors import EpochChangedError, SessionNotFoundError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import HistoryQuery, Version
from asynchistory.storage.port import Storage
from asynchistory.testing.contract.base import Contract, call, numbered, say, text_of, texts


class Reads(Contract):
    """What reads promise."""

    async def test_pages_forwards(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(25))
        found: list[int] = []
        after: str | None = None
        while True:
            page = await history.query_history(HistoryQuery("chat", limit=10, after=after))
            found += [record.seq for record in page]
            if (after := page.next) is None:
                break

        assert found == list(range(1, 26))

    async def test_pages_backwards(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(25))
        page = await history.query_history(HistoryQuery("chat", limit=10, newest=True))
        pages = [[record.seq for record in page]]
        while page.next is not None:
            page = await history.query_history(HistoryQuery("chat", limit=10, before=page.next))
            pages.append([record.seq for record in page])

        assert pages == [list(range(16, 26)), list(range(6, 16)), list(range(1, 6))]

    async def test_offsets_and_totals(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(25))

        page = await history.query_history(
            HistoryQuery("chat", limit=5, offset=18, with_total=True)
        )

        assert [record.seq for record in page] == [19, 20, 21, 22, 23]
        assert page.total == 25
        assert page.next is not None

    async def test_a_page_of_nothing(self, history: AsyncHistoryManager) -> None:
        await history.create_session("chat")

        page = await history.query_history(HistoryQuery("chat", with_total=True))

        assert (page.records, page.total, page.next) == ((), 0, None)

    async def test_a_missing_session(self, history: AsyncHistoryManager) -> None:
        with pytest.raises(SessionNotFoundError):
            await history.query_history(HistoryQuery("chat"))
        with pytest.raises(SessionNotFoundError):
            await history.get_session("chat")

    async def test_filters(self, history: AsyncHistoryManager) -> None:
        start = datetime(2024, 1, 1, tzinfo=UTC)
        for day in range(5):
            await history.append("chat", say(str(day), timestamp=start + timedelta(days=day)))
        await history.append("chat", *call("r1", model="a"), *call("r2", model="b"))

        async def seqs(query: HistoryQuery) -> list[int]:
            return [record.seq for record in await history.query_history(query)]

        step = timedelta(days=1)
        assert await seqs(
            HistoryQuery("chat", start_time=start + step, end_time=start + 3 * step)
        ) == [2, 3]
        assert await seqs(HistoryQuery("chat", model="a")) == [6, 7, 8, 9]
        assert await seqs(HistoryQuery("chat", record_types=("cost", "llm_request"))) == [
            6,
            9,
            10,
            13,
        ]
        assert await seqs(
            HistoryQuery("chat", record_types=("message",), newest=True, limit=2)
        ) == [4, 5]

    async def test_a_cursor_of_an_earlier_epoch_is_refused(
        self, history: AsyncHistoryManager
    ) -> None:
        await history.append("chat", *numbered(3))
        page = await history.query_history(HistoryQuery("chat", limit=1))
        await history.truncate("chat", 2)

        with pytest.raises(EpochChangedError):
            await history.query_history(HistoryQuery("chat", after=page.next))

    async def test_a_tail_is_of_one_moment(self, storage: Storage) -> None:
        history = AsyncHistoryManager(storage)
        appended = await history.append("chat", *numbered(5))

        tail = await storage.tail("chat", 2)

        assert tail is not None
        assert tail.version == Version(appended.epoch, 5)
        assert [record.seq for record in tail.records] == [4, 5]
        assert await storage.tail("nothing", 2) is None

    async def test_a_prefix_that_was_read_never_changes(self, history: AsyncHistoryManager) -> None:
        seen: list[str] = []
        written = anyio.Event()

        async def read() -> None:
            while not written.is_set():
                page = await history.query_history(HistoryQuery("chat", limit=10_000))
                found = [text_of(record) for record in page]
                assert found[: len(seen)] == seen
                seen[:] = found
                await anyio.lowlevel.checkpoint()  # a store in memory gives nobody a turn

        async def write(task: int) -> None:
            for turn in range(15):
                await history.append("chat", *[say(f"{task}.{turn}.{i}") for i in range(4)])

        await history.create_session("chat")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            async with anyio.create_task_group() as writers:
                for task in range(6):
                    writers.start_soon(write, task)
            written.set()

        assert len(await texts(history)) == 360

    async def test_a_watch_hands_out_each_record_once(self, storage: Storage) -> None:
        # Of another manager, so that the store itself has to notice.
        writer, reader = AsyncHistoryManager(storage), AsyncHistoryManager(storage)
        await writer.append("chat", say("1"))
        found: list[str] = []

        async with reader.watch("chat", after_seq=0) as records, anyio.create_task_group() as tasks:
            tasks.start_soon(_write, writer)
            with anyio.fail_after(60):
                async for record in records:
                    found.append(text_of(record))
                    if len(found) == 20:
                        break

        assert found == [str(number) for number in range(1, 21)]


async def _write(history: AsyncHistoryManager) -> None:
    for record in numbered(20, 2):
        await history.append("chat", record)
