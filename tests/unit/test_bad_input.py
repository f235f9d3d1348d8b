"""What cannot be accepted is refused by type, with a remedy, without content, and as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from asynchistory import (
    AnyRecord,
    AsyncHistoryError,
    AsyncHistoryManager,
    Checkpoint,
    Cost,
    HistoryQuery,
    InvalidInputError,
    InvalidRecordError,
    InvalidSessionIdError,
    LLMRequest,
    LLMResponse,
    MemoryStorage,
    Message,
    RecordTooLargeError,
    SessionNotFoundError,
    SQLiteStorage,
    Text,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    Usage,
)
from tests.unit.refusals import CANARY, refuse

pytestmark = pytest.mark.anyio

CALL: dict[str, str] = {"request_id": "r", "provider": "p", "model": "m"}
GOOD = Message.of("user", "fine")


@pytest.fixture(params=["memory", "sqlite"])
async def history(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[AsyncHistoryManager]:
    storage = MemoryStorage() if request.param == "memory" else SQLiteStorage(tmp_path / "x.db")
    async with AsyncHistoryManager(storage) as history:
        yield history


def nest(levels: int, kind: type) -> Any:
    value: Any = CANARY
    for _ in range(levels):
        value = [value] if kind is list else {"k": value}
    return value


def cycle(kind: type) -> Any:
    value: Any = [CANARY] if kind is list else {"k": CANARY}
    if kind is list:
        value.append(value)
    else:
        value["self"] = value
    return value


def inside(value: Any) -> list[AnyRecord]:
    """Records that hold a value in each of the places where any JSON may be."""
    return [
        Message.of("user", CANARY, metadata={"k": value}),
        Message.of("assistant", [ToolCallPart(id="1", name="f", arguments=value)]),
        Message.of("user", CANARY, raw={"k": value}, raw_format="openai"),
        Message.of("user", CANARY, extra={"newer": value}),
        Message.of("user", [Text(text=CANARY, extra={"newer": value})]),
        ToolCall(name="f", input=value),
        ToolCall(name="f", output=[value]),
        LLMRequest(**CALL, parameters={"k": value}),
        LLMResponse(**CALL, content={"k": [value]}),
        Checkpoint(name="c", state=value),
    ]


class Thing:
    def __repr__(self) -> str:
        return CANARY


# What JSON would lose, and the word of the remedy that the message gives.
LOSSY: dict[str, tuple[Any, str]] = {
    "nan": (float("nan"), "None or text"),
    "infinity": (float("inf"), "None or text"),
    "minus infinity": (float("-inf"), "None or text"),
    "nan inside": ({"a": [1, {"b": float("nan")}], CANARY: CANARY}, "None or text"),
    "tuple": (("a", CANARY), "use a list"),
    "int keys": ({1: CANARY}, "keys that are not strings"),
    "none key": ({None: CANARY}, "keys|use only"),
    "bytes": (CANARY.encode(), "use only|text"),
    "set": ({CANARY}, "use only|convert"),
    "datetime": (datetime(2024, 1, 1, tzinfo=UTC), "use only|convert"),
    "decimal": (Decimal("1.5"), "use only|convert"),
    "object": (Thing(), "use only"),
    "part": (Text(text=CANARY), "convert|use only"),
    "lone surrogate": (f"{CANARY} \ud800", "errors='replace'"),
    "surrogate key": ({f"{CANARY} \udfff": 1}, "errors='replace'"),
    "200 levels and one": (nest(201, list), "flatten"),
    "depth 1,000": (nest(1000, list), "flatten"),
    "depth 1,000 of objects": (nest(1000, dict), "flatten"),
    "depth 100,000": (nest(100_000, list), "flatten"),
    "cycle of lists": (cycle(list), "flatten"),
    "cycle of objects": (cycle(dict), "flatten"),
}


@pytest.mark.parametrize("name", LOSSY)
async def test_what_json_would_lose_is_refused_wherever_it_stands(
    history: AsyncHistoryManager, name: str
) -> None:
    value, remedy = LOSSY[name]
    error = RecordTooLargeError if remedy == "flatten" else InvalidRecordError

    for record in inside(value):
        await refuse(lambda: history.append("chat", GOOD, record, GOOD), error, remedy)  # noqa: B023

    await refuse(lambda: history.get_session("chat"), SessionNotFoundError, "append to it")


BOUNDS = [nest(190, list), nest(190, dict), 2**64, -(10**30), 0.1, "", {}, [], {"": ""}]


@pytest.mark.parametrize("value", BOUNDS, ids=lambda value: str(value)[:10])
async def test_what_is_just_in_bounds_is_taken(history: AsyncHistoryManager, value: Any) -> None:
    for record in inside(value):
        await history.append("chat", record)

    assert len(await history.last("chat", level="fresh")) == len(inside(value))


async def test_17_mib_are_refused(history: AsyncHistoryManager) -> None:
    text = CANARY + "x" * (17 * 1024 * 1024)

    await refuse(
        lambda: history.append("chat", GOOD, Message.of("user", text)),
        RecordTooLargeError,
        "16777216; store large content elsewhere",
    )
    await refuse(lambda: history.get_session("chat"), SessionNotFoundError, "append to it")


MALFORMED: dict[str, Any] = {
    "a dict": {"role": "user", "content": CANARY},
    "text": CANARY,
    "none": None,
    "a part": Text(text=CANARY),
    "a class": Message,
    "role of another type": Message(role=5),  # type: ignore[arg-type]
    "parts of text": Message(role="user", parts=CANARY),  # type: ignore[arg-type]
    "part of another type": Message(role="user", parts=({"type": "text", "txt": CANARY},)),  # type: ignore[arg-type]
    "part with another field": Message(
        role="user",
        parts=({"type": "text", "text": "x", CANARY: 1},),  # type: ignore[arg-type]
    ),
    "part with another tag": Message(role="user", parts=({"type": CANARY},)),  # type: ignore[arg-type]
    "text of another type": Message.of("user", [Text(text=5)]),  # type: ignore[arg-type]
    "metadata of another type": Message.of("user", "x", metadata=[CANARY]),
    "metadata key of another type": Message.of("user", "x", metadata={5: CANARY}),
    "naive timestamp": Message.of("user", CANARY, timestamp=datetime(2024, 1, 1)),
    "timestamp of another type": Message.of("user", CANARY, timestamp="2024-01-01"),
    "malformed record id": Message.of("user", "x", record_id=CANARY),
    "record id of another type": Message.of("user", "x", record_id=5),
    "duration of another type": ToolCall(name="f", duration=CANARY),  # type: ignore[arg-type]
    "infinite duration": ToolCall(name="f", duration=float("inf")),
    "tokens of another type": TokenUsage(**CALL, input_tokens=CANARY),  # type: ignore[arg-type]
    "negative tokens": TokenUsage(**CALL, input_tokens=-1),
    "too many tokens": TokenUsage(**CALL, input_tokens=2**53 + 1),
    "negative tokens of a response": LLMResponse(**CALL, usage=Usage(output_tokens=-1)),
    "money as a float": Cost(**CALL, total_cost=0.1),  # type: ignore[arg-type]
    "money that is not a number": Cost(**CALL, total_cost=Decimal("NaN")),
    "infinite money": Cost(**CALL, total_cost=Decimal("Infinity")),
    "too much money": Cost(**CALL, total_cost=Decimal("1e30")),
    "too fine money": Cost(**CALL, total_cost=Decimal("1e-13")),
    "response time beyond all bounds": LLMResponse(**CALL, response_time=1e300),
    "first token beyond all bounds": LLMResponse(**CALL, time_to_first_token=1e300),
    "extra that names a known field": Message.of("user", "x", extra={"name": CANARY}),
    "extra that names a part's field": Message.of(
        "user", [ToolCallPart(id="1", name="f", extra={"arguments": CANARY})]
    ),
    "extra that names the type": Message.of("user", "x", extra={"record_type": CANARY}),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_record_is_refused_with_its_batch(
    history: AsyncHistoryManager, name: str
) -> None:
    await history.append("chat", GOOD)

    await refuse(
        lambda: history.append("chat", GOOD, MALFORMED[name], GOOD),
        InvalidRecordError,
        r"expected|must|use|malformed|changes|finite|limit|keys|rename",
    )

    assert len(await history.last("chat", level="fresh")) == 1
    # What was refused does not hurt what comes next.
    assert (await history.append("chat", GOOD)).first_seq == 2


@pytest.mark.parametrize("content", [None, 5, [5], {"text": CANARY}, [CANARY], CANARY.encode()])
async def test_malformed_content_of_a_message_is_refused(
    history: AsyncHistoryManager, content: Any
) -> None:
    await refuse(
        lambda: history.record_message("chat", "user", content), InvalidInputError, "text|parts|use"
    )


@pytest.mark.parametrize("amount", ["ten", float("nan"), float("inf"), True, "1e400"])
async def test_malformed_money_is_refused(history: AsyncHistoryManager, amount: Any) -> None:
    await refuse(
        lambda: history.record_cost("chat", **CALL, total_cost=amount),
        InvalidRecordError,
        "number|finite|at most",
    )


IDS: dict[str, Any] = {
    "empty": "",
    "600 bytes": "é" * 300,
    "513 bytes": "x" * 513,
    "int": 5,
    "none": None,
    "bytes": b"chat",
    "nul": "a\0b",
    "lone surrogate": "a\ud800",
}


@pytest.mark.parametrize("name", IDS)
async def test_a_bad_session_id_is_refused_by_every_method(
    history: AsyncHistoryManager, name: str
) -> None:
    bad = IDS[name]
    for call in (
        lambda: history.append(bad, GOOD),
        lambda: history.record_message(bad, "user", CANARY),
        lambda: history.last(bad),
        lambda: history.query_history(HistoryQuery(bad)),
        lambda: history.get_session(bad),
        lambda: history.update_session(bad, title="x"),
        lambda: history.delete_session(bad),
        lambda: history.get_session_summary(bad),
    ):
        await refuse(call, InvalidSessionIdError, "must")
    if bad is not None:  # where None has a meaning of its own
        for call in (
            lambda: history.create_session(bad),
            lambda: history.search("x", session_id=bad),
            lambda: history.get_token_statistics(bad),
            lambda: history.get_cost_statistics(bad),
            lambda: history.get_llm_statistics(bad),
        ):
            await refuse(call, InvalidSessionIdError, "must")
    assert (await history.count()).sessions == 0


@pytest.mark.parametrize("name", [name for name in IDS if name != "none"])
async def test_bad_keys_and_user_ids_are_refused(history: AsyncHistoryManager, name: str) -> None:
    bad = IDS[name]
    await history.create_session("chat")
    for call in (
        lambda: history.append("chat", GOOD, idempotency_key=bad),
        lambda: history.create_session("new", user_id=bad),
        lambda: history.update_session("chat", user_id=bad),
        lambda: history.list_sessions(user_id=bad),
        lambda: history.search("x", user_id=bad),
    ):
        await refuse(call, InvalidInputError, "must")
    assert (await history.count()).sessions == 1


@pytest.mark.parametrize("expected", [-1, True, "1", 1.0])
async def test_a_bad_expected_seq_is_refused(history: AsyncHistoryManager, expected: Any) -> None:
    await refuse(
        lambda: history.append("chat", GOOD, expected_seq=expected), InvalidInputError, "0 or"
    )


async def test_bad_session_fields_are_refused(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", title="old", metadata={"k": 1})
    bad_fields: list[dict[str, Any]] = [
        {"title": 5},
        {"title": f"{CANARY}\ud800"},
        {"metadata": [CANARY]},
        {"metadata": {"k": float("nan")}},
        {"metadata": {5: CANARY}},
        {"metadata": cycle(dict)},
    ]

    for fields in bad_fields:
        for call in (
            lambda: history.create_session("new", **fields),  # noqa: B023
            lambda: history.update_session("chat", **fields),  # noqa: B023
        ):
            await refuse(call, InvalidRecordError, "use|text|errors|flatten|malformed|keys")
    naive = datetime(2030, 1, 1)
    await refuse(
        lambda: history.create_session("new", expires_at=naive), InvalidInputError, "time zone"
    )

    session = await history.get_session("chat")
    assert (session.title, session.metadata) == ("old", {"k": 1})
    assert (await history.count()).sessions == 1


async def test_a_mismatch_of_a_key_quotes_no_content(history: AsyncHistoryManager) -> None:
    await history.append("chat", Message.of("user", CANARY), idempotency_key="k")

    await refuse(
        lambda: history.append("chat", Message.of("user", CANARY * 2), idempotency_key="k"),
        AsyncHistoryError,
        "use a new key",
    )
