"""A store with a past, and its export in a form that can be compared."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from asynchistory import (
    AsyncHistoryManager,
    Checkpoint,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    Text,
    TokenUsage,
    ToolCall,
    Usage,
)

GROUPS = ("model", "provider", "day", "session", "user")


def say(text: str) -> Message:
    return Message.of("user", text)


def call(number: int, **fields: Any) -> list[Any]:
    """The four records of a model call."""
    base = {"request_id": f"r{number}", "provider": "p", "model": f"m{number % 2}"}
    base["timestamp"] = datetime(2024, 2, 27 + number % 3, 23, 59, 59, 999_999, tzinfo=UTC)
    return [
        LLMRequest(**base, from_seq=1, to_seq=number),
        LLMResponse(
            **base, finish_reason="stop", response_time=0.5 + number, usage=Usage(input_tokens=9)
        ),
        TokenUsage(**base, input_tokens=number, output_tokens=1, **fields),
        Cost(**base, total_cost=Decimal(number) / 1000, currency="EUR"),
    ]


async def live(history: AsyncHistoryManager) -> None:
    """Give the store sessions that have everything that a session can have."""
    await history.create_session("empty")
    await history.create_session(
        "chat", user_id="ann", title="Über\u2028🚀\x7f", metadata={"a": [1, None, {"b": 1.5}]},
        expires_at=datetime(2031, 5, 17, 12, 30, 15, 123456, tzinfo=UTC),
    )  # fmt: skip
    await history.append("chat", say("one"), *call(1), idempotency_key="first")
    newer = Message.of("user", [Text(text="hi", extra={"lang": "de"})], extra={"mood": {"joy": 1}})
    await history.append("chat", newer, ToolCall(name="f", input={"x": []}), idempotency_key="2")
    await history.append("chat", *call(2), Checkpoint(name="cp", state={"n": 1}, at_seq=3))
    await history.fork("chat", "fork", at_seq=9, title="a fork")
    await history.append("fork", *call(3), LLMResponse(request_id="r2", provider="p", model="m0"))
    await history.fork("fork", "fork of fork")
    await history.fork("chat", "bob's", user_id="bob")
    await history.append("bob's", say("mine"), *call(4))
    await history.append("gone", say("parent"))
    await history.fork("gone", "orphan")
    await history.append("orphan", say("child"))
    await history.delete_session("gone")
    await history.append("cut", *[say(str(n)) for n in range(6)], idempotency_key="made")
    await history.truncate("cut", 5, idempotency_key="to 5")
    await history.append("cut", say("after"), idempotency_key="after")
    await history.pop("cut", 2, idempotency_key="popped")
    await history.append("anew", say("old"), idempotency_key="old")
    await history.replace("anew", say("new"), *call(5), idempotency_key="anew")


async def lines_of(history: AsyncHistoryManager, *args: Any, **options: Any) -> list[bytes]:
    async with history.export(*args, **options) as lines:
        return [line async for line in lines]


def sessions_in(lines: list[bytes]) -> list[dict[str, Any]]:
    """The sessions of an export; each epoch as its rank among those of its session."""
    found = [json.loads(line) for line in lines]
    for value in found:
        named = [value["session"], *value.get("keys", ())]
        ranks = sorted({item["epoch"] for item in named})
        for item in named:
            item["epoch"] = ranks.index(item["epoch"])
    return found


async def figures(history: AsyncHistoryManager) -> list[Any]:
    """All statistics, and counts but for those of records: what forks share is counted once."""
    found: list[Any] = []
    for group in GROUPS:
        found += [
            await history.get_token_statistics(group_by=group),
            await history.get_cost_statistics(group_by=group),
            await history.get_llm_statistics(group_by=group),
        ]
    found.append((await history.count()).sessions)
    return found
