"""Summaries and counts, against what was appended."""

from __future__ import annotations

import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    Message,
    TokenUsage,
    ToolCallPart,
    ToolResultPart,
)

pytestmark = pytest.mark.anyio

CALL = {"request_id": "r", "provider": "p", "model": "m"}


async def test_summary_and_counts_equal_what_was_appended(history: AsyncHistoryManager) -> None:
    use = ToolCallPart(id="1", name="f")
    answer = ToolResultPart(id="1", result="x")
    await history.create_session("empty")
    await history.append(
        "a",
        Message.of("user", "x"),
        Message.of("assistant", [use, use]),
        Message.of("tool", [answer]),
        TokenUsage(**CALL),
        Cost(**CALL),
    )
    await history.append("b", Message.of("user", "y"), Message.of("critic", [use]))

    summary = await history.get_session_summary("a")
    counts = await history.count()

    assert summary.session == await history.get_session("a")
    assert (summary.records, summary.tool_calls, summary.tool_results) == (5, 2, 1)
    assert summary.record_types == {"message": 3, "token_usage": 1, "cost": 1}
    assert summary.roles == {"user": 1, "assistant": 1, "tool": 1}
    assert (counts.sessions, counts.records) == (3, 7)
    assert counts.record_types == {"message": 5, "token_usage": 1, "cost": 1}
    assert counts.roles == {"user": 2, "assistant": 1, "tool": 1, "critic": 1}
    assert (counts.tool_calls, counts.tool_results) == (3, 1)
    nothing = await history.get_session_summary("empty")
    assert (nothing.records, nothing.record_types, nothing.roles) == (0, {}, {})
