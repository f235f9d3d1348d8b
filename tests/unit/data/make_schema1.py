"""How schema1.sql and schema1.json were made, by the last commit that had schema 1.

::

    git worktree add /tmp/schema1 e04ace0
    PYTHONPATH=/tmp/schema1 python tests/unit/data/make_schema1.py

The first file is the database, as SQL. The second is what that commit read from it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import msgspec

from asynchistory import (
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    Text,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
    open_history,
)

HERE = Path(__file__).parent


def call(number: int, session: str) -> list[Any]:
    base = {
        "request_id": f"{session}-{number}",
        "provider": "openai" if number % 2 else "anthropic",
        "model": f"model-{number % 3}",
        "timestamp": datetime(2025, 12, 30 + number % 2, 22 + number % 2, number, tzinfo=UTC),
    }
    records: list[Any] = [LLMRequest(**base, parameters={"temperature": 0}, from_seq=1, to_seq=2)]
    if number % 4 == 3:
        return [*records, LLMResponse(**base, finish_reason="error", response_time=0.25)]
    records.append(
        LLMResponse(
            **{**base, "model": base["model"] + "-2025-01-01"},
            finish_reason="stop",
            response_time=number / 8,
            time_to_first_token=0.125,
            usage=Usage(input_tokens=100 + number, output_tokens=number, cached_tokens=7),
        )
    )
    if number % 2:
        records.append(TokenUsage(**base, input_tokens=200, output_tokens=2, reasoning_tokens=1))
    if number % 3:
        cost = {"input_cost": Decimal("0.000000000001"), "output_cost": Decimal(number)}
        records.append(Cost(**base, **cost, currency="EUR" if number % 2 else "USD"))
    return records


def talk(session: str, number: int) -> list[Any]:
    use = ToolCallPart(id=f"c{number}", name="look_up", arguments='{"order": 42}')
    return [
        Message.of("user", f"Where is my order {number}? Straße, 日本語 🚀"),
        *call(number, session),
        Message.of("assistant", [Text(text="I look."), use], extra={"mood": {"joy": 0.5}}),
        Message.of("tool", [ToolResultPart(id=f"c{number}", result={"state": "on its way"})]),
        ToolCall(name="look_up", input={"order": 42}, output=[1, None], duration=0.5),
    ]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schema1.db"
        async with open_history(path, level="fresh") as history:
            await history.create_session(
                "mia's", user_id="mia", title="Order 42", metadata={"shop": [1, {"a": None}]},
                expires_at=datetime(2035, 1, 1, tzinfo=UTC),
            )  # fmt: skip
            await history.create_session("empty", user_id="mia")
            await history.create_session("ravi", user_id="ravi")
            for number in range(4):
                for session in ("mia's", "ravi", "nobody's"):
                    key = f"{session} {number}" if number % 2 else None
                    await history.append(session, *talk(session, number), idempotency_key=key)
            await history.append("gone", Message.of("user", "x"), idempotency_key="k")
            await history.delete_session("gone")
            read = await everything(history)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)
            sql = "\n".join(db.iterdump())
        db.close()
    (HERE / "schema1.sql").write_text(sql + "\n", encoding="utf-8")
    (HERE / "schema1.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(read), indent=1) + b"\n"
    )


async def everything(history: Any) -> dict[str, Any]:
    """All that there is to read; also for the test that compares."""
    sessions = (await history.list_sessions(order="created", limit=1000)).sessions
    groups = ("model", "provider", "day", "session", "user")
    return {
        "sessions": sessions,
        "records": {session.id: await history.last(session.id, 1000) for session in sessions},
        "tokens": [await history.get_token_statistics(group_by=group) for group in groups],
        "costs": [await history.get_cost_statistics(group_by=group) for group in groups],
        "llm": [await history.get_llm_statistics(group_by=group) for group in groups],
        "count": await history.count(),
    }


if __name__ == "__main__":
    anyio.run(main)
