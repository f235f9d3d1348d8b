"""Any page through the tail cache is the page that the store would give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryPage,
    HistoryQuery,
    MemoryStorage,
    Message,
    TailCache,
    ToolCall,
)
from asynchistory.storage.cursors import make_cursor
from tests.unit.tail_setting import Setting

pytestmark = pytest.mark.anyio

SESSIONS: list[Any] = [0, 1, 4, 5, 6, 12, 30]
seqs = st.integers(0, 32)
queries = st.fixed_dictionaries(
    {
        "limit": st.integers(0, 7) | st.integers(0, 33),
        "offset": st.sampled_from([0, 0, 0, 1, 3, 30]),
        "newest": st.booleans(),
        "with_total": st.booleans(),
        "record_types": st.sampled_from([None, None, ("message",), ("tool_call",), ()]),
        "model": st.sampled_from([None, None, None, "m"]),
        "cursor": st.none() | st.tuples(st.sampled_from(["before", "after"]), seqs),
        "foreign": st.sampled_from([False, False, False, True]),
    }
)


def query_of(epoch: int, *, cursor: Any, foreign: bool, **options: Any) -> HistoryQuery:
    if cursor is not None:
        direction, seq = cursor
        options[direction] = make_cursor(epoch + foreign, seq)
    return HistoryQuery("chat", **options)


async def answer(
    history: AsyncHistoryManager, query: HistoryQuery, level: Any
) -> HistoryPage | str:
    try:
        return await history.query_history(query, level=level)
    except EpochChangedError:
        return "another epoch"


@settings(max_examples=300, deadline=None)
@given(
    size=st.sampled_from(SESSIONS),
    primed=st.sampled_from([None, 1, 5, 100]),
    grown=st.integers(0, 4),
    asked=st.lists(queries, min_size=1, max_size=6),
    level=st.sampled_from(["validated", "cached"]),
)
async def test_any_page_is_the_same_through_the_cache_as_from_the_store(
    size: int, primed: int | None, grown: int, asked: list[dict[str, Any]], level: str
) -> None:
    records = [ToolCall(name="f") if n % 3 else Message.of("user", str(n)) for n in range(size)]
    async with AsyncHistoryManager(MemoryStorage(), TailCache(depth=5)) as history:
        epoch = (await history.create_session("chat")).epoch
        if records:
            await history.append("chat", *records)
        if primed is not None:
            await history.last("chat", primed)
        for number in range(grown):
            await history.record_message("chat", "user", f"grown {number}")
        for options in asked:
            query = query_of(epoch, **options)
            assert await answer(history, query, level) == await answer(history, query, "fresh")


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 100])
async def test_last_is_the_same_through_the_cache_as_from_the_store(count: int) -> None:
    async with AsyncHistoryManager(MemoryStorage(), TailCache(depth=5)) as history:
        for number in range(20):
            await history.record_message("chat", "user", str(number))
            fresh = await history.storage.tail("chat", count)
            assert fresh is not None
            for level in ("validated", "cached", "validated"):
                assert await history.last("chat", count, level=level) == fresh.records


async def test_pages_inside_the_tail_are_hits_and_others_are_not() -> None:
    async with Setting(depth=5) as at:
        await at.say(*map(str, range(20)))
        epoch = (await at.history.get_session("chat")).epoch
        await at.read(5)
        inside = [
            {"newest": True, "limit": 4},
            {"newest": True, "limit": 2, "offset": 2},
            {"after": make_cursor(epoch, 15)},
            {"after": make_cursor(epoch, 17), "limit": 1},
            {"after": make_cursor(epoch, 20)},
        ]
        outside = [
            {},
            {"limit": 5},
            {"newest": True, "limit": 5},
            {"newest": True, "limit": 6},
            {"newest": True, "limit": 3, "offset": 3},
            {"newest": True, "limit": 2, "with_total": True},
            {"newest": True, "limit": 2, "record_types": ("tool_call",)},
            {"after": make_cursor(epoch, 14)},
            {"before": make_cursor(epoch, 18)},
        ]
        for expected, group in ((1, inside), (0, outside)):
            for options in group:
                counts = at.since()
                await at.history.query_history(HistoryQuery("chat", **options))
                assert counts()[0] == expected, options
