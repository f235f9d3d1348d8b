"""Queries that mean nothing are refused by type, with a remedy and without content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asynchistory import (
    AsyncHistoryManager,
    HistoryQuery,
    InvalidInputError,
    InvalidQueryError,
    MemoryStorage,
    Message,
    SQLiteStorage,
)
from tests.unit.refusals import CANARY, refuse

pytestmark = pytest.mark.anyio

GOOD = Message.of("user", "fine")


@pytest.fixture(params=["memory", "sqlite"])
async def history(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[AsyncHistoryManager]:
    storage = MemoryStorage() if request.param == "memory" else SQLiteStorage(tmp_path / "x.db")
    async with AsyncHistoryManager(storage) as history:
        yield history


@pytest.mark.parametrize("limit", [-1, 10_001, True, 1.0, "5", None, 2**70])
async def test_a_bad_limit_is_refused(history: AsyncHistoryManager, limit: Any) -> None:
    await history.append("chat", GOOD)
    for call in (
        lambda: history.last("chat", limit),
        lambda: history.query_history(HistoryQuery("chat", limit=limit)),
        lambda: history.search("x", limit=limit),
        lambda: history.list_sessions(limit=limit),
    ):
        await refuse(call, InvalidQueryError, "whole number from 0 to")


QUERIES: dict[str, tuple[dict[str, Any], str]] = {
    "negative offset": ({"offset": -1}, "whole number"),
    "huge offset": ({"offset": 2**64}, "whole number"),
    "naive start": ({"start_time": datetime(2024, 1, 1)}, "time zone"),
    "naive end": ({"end_time": datetime(2024, 1, 1)}, "time zone"),
    "text for a time": ({"start_time": "2024-01-01"}, "time zone"),
    "both cursors": ({"before": "1.2", "after": "1.1"}, "not both"),
    "one type as text": ({"record_types": "message"}, "tuple"),
    "unknown type": ({"record_types": ("message", CANARY)}, "some of"),
    "type of another type": ({"record_types": (5,)}, "some of"),
    "types of another type": ({"record_types": 5}, "some of"),
    "model of another type": ({"model": 5}, "model"),
    "surrogate model": ({"model": f"{CANARY}\ud800"}, "model"),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_that_means_nothing_is_refused(
    history: AsyncHistoryManager, name: str
) -> None:
    await history.append("chat", GOOD)
    options, remedy = QUERIES[name]

    for level in ("validated", "fresh"):
        query = HistoryQuery("chat", **options)
        await refuse(lambda: history.query_history(query, level=level), InvalidQueryError, remedy)  # noqa: B023


CURSORS: list[Any] = [
    "", "x", CANARY, "1", "1.", ".2", "1.2.3", "1.-2", "-1.2", " 1.2", "1.2 ", "0x1.2", "1e3.2",
    "1." + "9" * 60, "1." + "9" * 30, "9" * 30 + ".1", 5, 1.5, b"1.2",
]  # fmt: skip


@pytest.mark.parametrize("cursor", CURSORS, ids=repr)
async def test_a_malformed_cursor_is_refused(history: AsyncHistoryManager, cursor: Any) -> None:
    await history.append("chat", GOOD)
    for call in (
        lambda: history.query_history(HistoryQuery("chat", after=cursor)),
        lambda: history.query_history(HistoryQuery("chat", before=cursor)),
        lambda: history.query_history(HistoryQuery("chat", before=cursor), level="fresh"),
        lambda: history.list_sessions(after=cursor),
        lambda: history.list_sessions(after=cursor, order="created"),
    ):
        await refuse(call, InvalidQueryError, "`next` of a page")


async def test_an_order_of_sessions_that_does_not_exist_is_refused(
    history: AsyncHistoryManager,
) -> None:
    bad: Any = "size"
    await refuse(lambda: history.list_sessions(order=bad), InvalidQueryError, "updated")


@pytest.mark.parametrize("text", [None, 5, b"x", ["x"]])
async def test_a_search_for_no_text_is_refused(history: AsyncHistoryManager, text: Any) -> None:
    await refuse(lambda: history.search(text), InvalidQueryError, "word")


async def test_a_search_for_a_lone_surrogate_finds_nothing(history: AsyncHistoryManager) -> None:
    await history.append("chat", GOOD)

    assert await history.search("\ud800") == ()


@pytest.mark.parametrize("field", ["user_id", "model"])
@pytest.mark.parametrize("bad", [5, b"x", f"{CANARY}\ud800"], ids=["int", "bytes", "surrogate"])
async def test_bad_filters_of_statistics_are_refused(
    history: AsyncHistoryManager, field: str, bad: Any
) -> None:
    filters: dict[str, Any] = {field: bad}
    for call in (
        lambda: history.get_token_statistics(**filters),
        lambda: history.get_cost_statistics(**filters),
        lambda: history.get_llm_statistics(**filters),
    ):
        await refuse(call, InvalidInputError, "must|text")
