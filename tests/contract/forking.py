"""Forks, and plain sessions of the same records that they are held against."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from msgspec.structs import replace

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    HistoryQuery,
    LLMRequest,
    LLMResponse,
    Message,
    StoredRecord,
    ToolCall,
)
from tests.contract.chats import read_all

START = datetime(2024, 2, 29, tzinfo=UTC)


def at(number: int) -> datetime:
    """Record times go up and down."""
    return START + timedelta(seconds=number * 7 % 5)


def varied(number: int) -> AnyRecord:
    """Records of several types and models, told apart by a number in their metadata."""
    options: dict[str, Any] = {"metadata": {"number": number}, "timestamp": at(number)}
    call = {"request_id": f"r{number}", "provider": "p", **options}
    match number % 5:
        case 0:
            return ToolCall(name=f"tool-{number}", **options)
        case 1:
            return LLMRequest(model="gpt-4o" if number % 2 else "claude", **call)
        case 2:
            return LLMResponse(model="gpt-4o", **call)
        case 3:
            return Message.of("assistant", str(number), **options)
        case _:
            return Message.of("user", str(number), **options)


def some(last: int, first: int = 1) -> list[AnyRecord]:
    return [varied(number) for number in range(first, last + 1)]


async def append(history: AsyncHistoryManager, session_id: str, last: int, first: int = 1) -> None:
    """Append varied records with these numbers, if any."""
    if last >= first:
        await history.append(session_id, *some(last, first))


async def seen(history: AsyncHistoryManager, session_id: str, **options: Any) -> list[int]:
    """The numbers of the session's varied records."""
    return [record.metadata["number"] for record in await read_all(history, session_id, **options)]


# -- a fork reads as a plain session of the same records does


async def assert_reads_like_plain(history: AsyncHistoryManager, session_id: str) -> None:
    """Hold each way of reading a session against a session that was appended to and no more."""
    records = await read_all(history, session_id)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert {record.session_id for record in records} <= {session_id}
    plain = f"plain {session_id}"
    await history.replace(plain, *[replace(record, session_id="", seq=0) for record in records])
    for query in queries(session_id, len(records)):
        found = await walk(history, query)
        assert found == await walk(history, replace(query, session_id=plain)), query
    for count in (0, 1, 2, len(records) - 1, len(records), len(records) + 1):
        if count >= 0:
            last = await history.last(session_id, count)
            assert list(last) == list(records[max(0, len(records) - count) :])
    await _assert_same_summary(history, session_id, plain)
    await history.delete_session(plain)


async def _assert_same_summary(history: AsyncHistoryManager, one: str, other: str) -> None:
    first, second = [await history.get_session_summary(name) for name in (one, other)]
    assert first.session == await history.get_session(one)
    assert replace(first, session=second.session) == second


def queries(session_id: str, count: int) -> Iterator[HistoryQuery]:
    """Queries of all kinds; those with filters start at a few places only."""
    half = max(1, count // 2)
    for limit, newest in product((1, 3, half, count, count + 1), (False, True)):
        yield HistoryQuery(session_id, limit=limit, newest=newest, with_total=True)
    for offset, newest in product((1, half, count, count + 1), (False, True)):
        yield HistoryQuery(session_id, limit=2, offset=offset, newest=newest)
    filters: list[dict[str, Any]] = [
        {"record_types": ("message",)},
        {"record_types": ("tool_call", "llm_request")},
        {"record_types": ()},
        {"model": "gpt-4o"},
        {"model": "none"},
        {"start_time": at(1), "end_time": at(3)},
        {"model": "gpt-4o", "record_types": ("llm_request",), "start_time": at(1)},
    ]
    for options, newest in product(filters, (False, True)):
        yield HistoryQuery(session_id, limit=2, newest=newest, with_total=True, **options)


async def walk(history: AsyncHistoryManager, query: HistoryQuery) -> list[Any]:
    """All pages of a query, without what differs between two sessions of the same records."""
    found: list[Any] = []
    while True:
        page = await history.query_history(query)
        found.append(([bare(record) for record in page], page.total))
        if page.next is None:
            return found
        assert len(found) < 100, "the pages have no end"
        # After the first page an offset would be counted again.
        direction = "before" if query.newest or query.before else "after"
        query = replace(query, newest=False, offset=0, **{direction: page.next})


def bare(record: StoredRecord) -> StoredRecord:
    return replace(record, session_id="")
