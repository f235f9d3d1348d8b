"""Pages of records: directions, filters, cursors, totals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from msgspec.structs import replace

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    HistoryQuery,
    LLMRequest,
    LLMResponse,
    Message,
    Storage,
    ToolCall,
    Version,
)

pytestmark = pytest.mark.anyio

START = datetime(2024, 2, 28, 23, 59, 58, 999_999, tzinfo=UTC)
COUNT = 23


def record(number: int) -> AnyRecord:
    # Two of a kind have the same time, and the times go backwards in between.
    at = START + timedelta(seconds=number // 2 * (1 if number % 5 else -1))
    match number % 4:
        case 0:
            return ToolCall(name=f"tool-{number}", timestamp=at)
        case 1:
            model = "gpt-4o" if number % 3 else "claude"
            return LLMRequest(request_id=f"r{number}", provider="p", model=model, timestamp=at)
        case 2:
            return LLMResponse(request_id=f"r{number}", provider="p", model="gpt-4o", timestamp=at)
        case _:
            return Message.of("user", str(number), timestamp=at)


RECORDS = [replace(record(number), seq=number) for number in range(1, COUNT + 1)]


@pytest.fixture
async def filled(history: AsyncHistoryManager) -> AsyncHistoryManager:
    await history.append("other", Message.of("user", "of another session"))
    await history.append("chat", *[record(number) for number in range(1, COUNT + 1)])
    return history


async def seqs(history: AsyncHistoryManager, **query: object) -> list[int]:
    page = await history.query_history(HistoryQuery("chat", **query))
    return [item.seq for item in page]


async def walk(
    history: AsyncHistoryManager, direction: str, query: HistoryQuery
) -> AsyncIterator[list[int]]:
    while True:
        page = await history.query_history(query)
        yield [item.seq for item in page]
        if page.next is None:
            return
        query = replace(query, newest=False, **{direction: page.next})


def flat(pages: Iterable[list[int]]) -> list[int]:
    return [seq for page in pages for seq in page]


async def test_a_query_reads_the_oldest_first(filled: AsyncHistoryManager) -> None:
    assert await seqs(filled) == list(range(1, COUNT + 1))
    assert await seqs(filled, limit=3) == [1, 2, 3]
    assert await seqs(filled, limit=3, offset=20) == [21, 22, 23]
    assert await seqs(filled, limit=3, offset=22) == [23]
    assert await seqs(filled, offset=COUNT) == []
    assert await seqs(filled, offset=2**53) == []


async def test_newest_counts_from_the_end_and_still_reads_in_order(
    filled: AsyncHistoryManager,
) -> None:
    assert await seqs(filled, newest=True, limit=3) == [21, 22, 23]
    assert await seqs(filled, newest=True, limit=3, offset=2) == [19, 20, 21]
    assert await seqs(filled, newest=True, limit=3, offset=22) == [1]


async def test_last_is_the_newest_in_order(filled: AsyncHistoryManager) -> None:
    assert [item.seq for item in await filled.last("chat", 2)] == [22, 23]
    assert [item.seq for item in await filled.last("chat", 1000)] == list(range(1, COUNT + 1))
    assert await filled.last("chat", 0) == ()


async def test_a_limit_of_0_reads_nothing(filled: AsyncHistoryManager) -> None:
    page = await filled.query_history(HistoryQuery("chat", limit=0, with_total=True))

    assert (page.records, page.total, page.next) == ((), COUNT, None)


@pytest.mark.parametrize("limit", [1, 2, 7, 22, 23, 24])
async def test_forwards_from_page_to_page(filled: AsyncHistoryManager, limit: int) -> None:
    pages = [page async for page in walk(filled, "after", HistoryQuery("chat", limit=limit))]

    assert flat(pages) == list(range(1, COUNT + 1))
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert pages[-1]


@pytest.mark.parametrize("limit", [1, 2, 7, 22, 23, 24])
async def test_backwards_from_page_to_page(filled: AsyncHistoryManager, limit: int) -> None:
    query = HistoryQuery("chat", limit=limit, newest=True)

    pages = [page async for page in walk(filled, "before", query)]

    assert flat(reversed(pages)) == list(range(1, COUNT + 1))
    assert {len(page) for page in pages[:-1]} <= {limit}


@pytest.mark.parametrize("direction", ["after", "before"])
async def test_cursors_pass_over_what_a_filter_leaves_out(
    filled: AsyncHistoryManager, direction: str
) -> None:
    newest = direction == "before"
    query = HistoryQuery("chat", limit=2, newest=newest, record_types=("message", "tool_call"))

    pages = [page async for page in walk(filled, direction, query)]

    wanted = [item.seq for item in RECORDS if isinstance(item, Message | ToolCall)]
    assert sorted(flat(pages)) == wanted


async def test_a_cursor_stands_while_the_session_grows(filled: AsyncHistoryManager) -> None:
    first = await filled.query_history(HistoryQuery("chat", limit=20))
    newest = await filled.query_history(HistoryQuery("chat", limit=5, newest=True))

    await filled.append("chat", Message.of("user", "later"))

    assert await seqs(filled, after=first.next) == [21, 22, 23, 24]
    assert await seqs(filled, before=newest.next, limit=3) == [16, 17, 18]
    assert await seqs(filled, after=first.next, offset=1, limit=2) == [22, 23]


async def test_after_with_newest_reads_the_end_of_what_is_after(
    filled: AsyncHistoryManager,
) -> None:
    page = await filled.query_history(HistoryQuery("chat", limit=10))

    assert await seqs(filled, after=page.next, newest=True, limit=4) == [20, 21, 22, 23]


@pytest.mark.parametrize(
    "types", [("message",), ("tool_call", "llm_request"), ("cost",), (), ("message", "message")]
)
async def test_the_type_filter(filled: AsyncHistoryManager, types: tuple[str, ...]) -> None:
    wanted = [item.seq for item in RECORDS if item.record_type in types]

    assert await seqs(filled, record_types=types) == wanted


@pytest.mark.parametrize("model", ["gpt-4o", "claude", "gpt", "GPT-4O", "", "%"])
async def test_the_model_filter_is_exact(filled: AsyncHistoryManager, model: str) -> None:
    wanted = [item.seq for item in RECORDS if getattr(item, "model", None) == model]

    assert await seqs(filled, model=model) == wanted


@pytest.mark.parametrize("zone", [UTC, None])
async def test_the_time_filter_is_half_open(filled: AsyncHistoryManager, zone: object) -> None:
    start, end = START + timedelta(seconds=2), START + timedelta(seconds=7)
    wanted = [item.seq for item in RECORDS if start <= item.timestamp < end]
    if zone is None:  # the same moments on another clock
        start, end = start.astimezone(), end.astimezone()

    assert await seqs(filled, start_time=start, end_time=end) == wanted
    assert await seqs(filled, start_time=start, end_time=start) == []
    assert 0 < len(wanted) < COUNT


async def test_time_is_kept_to_the_microsecond(history: AsyncHistoryManager) -> None:
    step = timedelta(microseconds=1)
    records = [Message.of("user", str(n), timestamp=START + n * step) for n in range(3)]
    await history.append("chat", *records)

    assert await seqs(history, start_time=START + step) == [2, 3]
    assert await seqs(history, end_time=START + step) == [1]


async def test_the_total_counts_what_matches_and_not_the_page(
    filled: AsyncHistoryManager,
) -> None:
    messages = [item.seq for item in RECORDS if isinstance(item, Message)]
    query = HistoryQuery("chat", record_types=("message",), limit=2, with_total=True)

    first = await filled.query_history(query)
    second = await filled.query_history(replace(query, after=first.next))

    assert (first.total, second.total) == (len(messages), len(messages))
    assert [item.seq for item in second] == messages[2:4]
    assert (await filled.query_history(HistoryQuery("chat"))).total is None


async def test_filters_combine(filled: AsyncHistoryManager) -> None:
    page = await filled.query_history(
        HistoryQuery("chat", model="gpt-4o", record_types=("llm_request",), newest=True, limit=2)
    )

    wanted = [
        item.seq for item in RECORDS if isinstance(item, LLMRequest) and item.model == "gpt-4o"
    ]
    assert [item.seq for item in page] == wanted[-2:]


async def test_an_empty_session_reads_as_nothing(history: AsyncHistoryManager) -> None:
    await history.create_session("empty")

    page = await history.query_history(HistoryQuery("empty", with_total=True))

    assert (page.records, page.total, page.next) == ((), 0, None)
    assert await history.last("empty") == ()


async def test_order_is_by_seq_whatever_the_clock_says(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(2 * 10**15, 0, -(10**12)))
    monkeypatch.setattr("asynchistory.codec.now_us", lambda: next(clock))

    for number in range(6):
        await history.record_message("chat", "user", f"word {number}")

    records = await history.last("chat")
    times = [item.timestamp for item in records]
    assert times == sorted(times, reverse=True)
    assert [item.text for item in records] == [f"word {number}" for number in range(6)]
    assert await seqs(history, newest=True, limit=2) == [5, 6]
    found = await history.search("word")
    assert [hit.record.seq for hit in found] == [6, 5, 4, 3, 2, 1]


async def test_a_tail_is_the_newest_with_its_version(storage: Storage) -> None:
    history = AsyncHistoryManager(storage)
    appended = await history.append("chat", *[Message.of("user", str(n)) for n in range(5)])
    version = Version(appended.epoch, 5)

    for limit, wanted in ((0, []), (2, [4, 5]), (5, [1, 2, 3, 4, 5]), (99, [1, 2, 3, 4, 5])):
        tail = await storage.tail("chat", limit)
        assert tail is not None
        assert (tail.version, [item.seq for item in tail.records]) == (version, wanted)


async def test_readers_never_see_half_a_batch(history: AsyncHistoryManager) -> None:
    await history.append("chat", Message.of("user", "start"))
    finished = anyio.Event()

    async def write() -> None:
        for number in range(30):
            await history.append("chat", *[Message.of("user", f"{number}") for _ in range(3)])
        finished.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not finished.is_set():
            page = await history.query_history(HistoryQuery("chat", limit=1000, with_total=True))
            assert len(page) % 3 == 1
            assert page.total == len(page)
            await anyio.lowlevel.checkpoint()
