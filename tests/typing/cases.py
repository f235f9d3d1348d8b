"""Type-checked and never run: what user code may write, and what it may not."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import assert_type

from asynchistory.records import Cost, Message, Text, TokenUsage, ToolCallPart, Usage, money


def a_message_from_text_or_parts() -> None:
    message = Message.of("user", "Hi!", metadata={"channel": "web"})
    assert_type(message, Message)
    assert_type(message.seq, int)
    assert_type(message.text, str)
    assert_type(message.timestamp, datetime | None)
    assert_type(message.tool_calls, tuple[ToolCallPart, ...])

    Message.of("assistant", [Text(text="Hello"), ToolCallPart(id="1", name="search")])
    Message.of("user", 3)  # type: ignore[arg-type]
    Message(parts=())  # type: ignore[call-arg]


def records_are_frozen() -> None:
    Message.of("user", "Hi!").role = "assistant"  # type: ignore[misc]


def usage_and_cost() -> None:
    usage = TokenUsage(request_id="r", provider="openai", model="gpt-4o", input_tokens=3)
    assert_type(usage.input_tokens, int | None)
    assert_type(Usage().cached_tokens, int | None)

    cost = Cost(request_id="r", provider="openai", model="gpt-4o", total_cost=money("0.01"))
    assert_type(cost.total_cost, Decimal | None)
    Cost(request_id="r", provider="openai", model="gpt-4o", total_cost=0.01)  # type: ignore[arg-type]
