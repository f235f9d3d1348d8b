"""Records: every field of all seven types, any text, and fields that are not known yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    Blob,
    Checkpoint,
    Cost,
    File,
    HistoryQuery,
    LLMRequest,
    LLMResponse,
    Message,
    Reasoning,
    Storage,
    Text,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Uri,
    Usage,
)
from asynchistory.records import RECORD_TYPES
from asynchistory.validation import MAX_RECORD_BYTES

pytestmark = pytest.mark.anyio

JSON = {"a": [1, 2.5, None, True, {"b": "ü"}], "": {}, "big": 2**53, "small": -1e-9}
COMMON: dict[str, Any] = {
    "record_id": "0190c0ffee00700080000000000000ff",
    "timestamp": datetime(2024, 2, 29, 1, 2, 3, 456789, tzinfo=UTC),
    "metadata": JSON,
}
CALL = {"request_id": "req-1", "provider": "openai", "model": "gpt-4o"}
PARTS = (
    Text(text="hello"),
    Reasoning(text="hm", signature="sig"),
    ToolCallPart(id="c1", name="f", arguments='{"x": 1}'),
    ToolCallPart(id="c2", name="g", arguments={"x": [1]}),
    ToolResultPart(id="c1", result="text", name="f", is_error=True),
    ToolResultPart(id="c2", result=JSON),
    Blob(data=bytes(range(256)), mime_type="image/png"),
    File(file_id="file-1", mime_type="application/pdf"),
    Uri(uri="https://example.org/?q=ü", mime_type="text/html"),
)
FULL: list[AnyRecord] = [
    Message(
        role="assistant", parts=PARTS, name="bot", raw={"id": 1}, raw_format="openai", **COMMON
    ),
    ToolCall(
        name="f", input=JSON, output=[JSON], error="e", duration=0.25, call_id="c1", **COMMON
    ),
    LLMRequest(**CALL, parameters=JSON, from_seq=1, to_seq=9, estimated_tokens=1234, **COMMON),
    LLMResponse(
        **CALL, content=[JSON], finish_reason="stop", response_time=1.5, time_to_first_token=0.125,
        usage=Usage(
            input_tokens=1, output_tokens=2, total_tokens=3, cached_tokens=1, reasoning_tokens=0
        ),
        **COMMON,
    ),
    TokenUsage(
        **CALL, input_tokens=10, output_tokens=20, total_tokens=30, cached_tokens=5,
        reasoning_tokens=7, source="provider", confidence=0.75, **COMMON,
    ),
    Cost(
        **CALL, input_cost=Decimal("0.000000000001"), output_cost=Decimal("-1.5"),
        total_cost=Decimal(9_000_000), currency="EUR", price_source="list", **COMMON,
    ),
    Checkpoint(name="cp", state=JSON, at_seq=3, **COMMON),
]  # fmt: skip
BARE: list[AnyRecord] = [
    Message(role="user"), ToolCall(name="f"), LLMRequest(**CALL), LLMResponse(**CALL),
    TokenUsage(**CALL), Cost(**CALL), Checkpoint(name="cp"),
]  # fmt: skip


def kind(record: AnyRecord) -> str:
    return record.record_type


def test_the_examples_have_every_type_and_set_every_field() -> None:
    assert [type(record) for record in FULL] == list(RECORD_TYPES)
    for record in FULL:
        defaults = {field.name: field.default for field in msgspec.structs.fields(record)}
        for name in set(defaults) - {"seq", "session_id", "extra", "epoch"}:
            assert getattr(record, name) != defaults[name], (record.record_type, name)


@pytest.mark.parametrize("record", FULL, ids=kind)
async def test_every_field_comes_back(history: AsyncHistoryManager, record: AnyRecord) -> None:
    await history.append("chat", record)

    [found] = await history.last("chat")

    assert found == replace(record, seq=1, session_id="chat")


@pytest.mark.parametrize("record", BARE, ids=kind)
async def test_what_was_left_out_is_left_out(
    history: AsyncHistoryManager, record: AnyRecord
) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    await history.append("chat", record)

    [found] = await history.last("chat")

    assert len(found.record_id) == 32
    assert before <= found.timestamp <= datetime.now(UTC)
    assert replace(found, seq=0, session_id="", record_id="", timestamp=None) == record


async def test_a_message_of_very_many_tool_calls_and_results_comes_back(
    history: AsyncHistoryManager,
) -> None:
    parts = [ToolCallPart(id="c", name="f"), ToolResultPart(id="c")] * 33_000
    message = Message.of("assistant", parts)
    await history.append("chat", message)

    [found] = await history.last("chat", 1)
    assert isinstance(found, Message)
    assert found.parts == message.parts
    assert (await history.count()).roles == {"assistant": 1}


async def test_records_survive_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await history.append("chat", *FULL)
        before = await history.last("chat", level="fresh")

    async with AsyncHistoryManager(make_storage()) as history:
        assert await history.last("chat", level="fresh") == before
        assert len(before) == len(FULL)


async def test_each_read_gives_the_same_record(history: AsyncHistoryManager) -> None:
    await history.append("chat", *FULL)

    page = await history.query_history(HistoryQuery("chat"))

    assert page.records == await history.last("chat")
    [hit] = await history.search("hello")
    assert hit.record == page.records[0]


async def test_the_record_methods_return_what_reads_return(history: AsyncHistoryManager) -> None:
    options = {"metadata": {"k": [1]}, "timestamp": COMMON["timestamp"]}
    made = [
        await history.record_message("chat", "user", "hi", name="ann", **options),
        await history.record_tool_call(
            "chat", "f", input=JSON, output=1, error="e", duration=0.5, call_id="c", **options
        ),
        await history.record_llm_request(
            "chat", provider="p", model="m", parameters=JSON, from_seq=1, to_seq=2,
            estimated_tokens=3, **options,
        ),
        await history.record_llm_response(
            "chat", **CALL, content="x", finish_reason="stop", usage=Usage(input_tokens=1),
            response_time=0.5, time_to_first_token=0.25, **options,
        ),
        await history.record_token_usage(
            "chat", **CALL, input_tokens=1, output_tokens=2, total_tokens=3, cached_tokens=1,
            reasoning_tokens=2, source="s", confidence=0.5, **options,
        ),
        await history.record_cost(
            "chat", **CALL, input_cost="0.1", output_cost=0.2, total_cost=Decimal("0.3"),
            currency="EUR", price_source="list", **options,
        ),
    ]  # fmt: skip

    assert tuple(made) == await history.last("chat")
    assert [record.seq for record in made] == [1, 2, 3, 4, 5, 6]
    assert made[2].request_id
    assert (made[5].input_cost, made[5].output_cost) == (Decimal("0.1"), Decimal("0.2"))


async def test_record_ids_are_unique_and_ordered(history: AsyncHistoryManager) -> None:
    for _ in range(5):
        await history.append("chat", *[Message.of("user", "x")] * 20)

    ids = [record.record_id for record in await history.last("chat", 100)]

    assert ids == sorted(set(ids))


async def test_a_time_in_another_zone_is_the_same_moment(history: AsyncHistoryManager) -> None:
    there = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    await history.record_message("chat", "user", "x", timestamp=there)

    [found] = await history.last("chat")

    assert found.timestamp == there
    assert found.timestamp.utcoffset() == timedelta(0)


# -- text


TEXTS = [
    "", " ", "\0", "a\0b\0", "\x01\x1f\x7f\x85\u2028\ufeff", "\r\n\t", "e\u0301 vs \u00e9",
    "👩‍👩‍👧‍👦",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0010ffff\uffff\ufffe", "שלום \u202eabc",
    "\\u0000 \\ \" ' ; DROP TABLE records; --", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:20])
async def test_any_text_comes_back(history: AsyncHistoryManager, text: str) -> None:
    metadata = {text: text}
    await history.append(
        "chat",
        Message.of("user", text, name=text, metadata=metadata),
        ToolCall(name=text, input=text, output={text: [text]}, error=text),
    )

    message, call = await history.last("chat")

    assert (message.text, message.name, message.metadata) == (text, text, metadata)
    assert (call.name, call.input, call.output, call.error) == (text, text, {text: [text]}, text)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(value=PLAIN, text=st.text())
async def test_any_json_comes_back(storage: Storage, value: object, text: str) -> None:
    history = AsyncHistoryManager(storage, level="fresh")
    record = ToolCall(name=text, input=value, metadata={"value": value})

    appended = await history.append("chat", record)

    [found] = await history.last("chat", 1)
    assert (found.seq, found.name) == (appended.last_seq, text)
    # As text, or 1 would equal 1.0 and True.
    assert repr((found.input, found.metadata)) == repr((value, {"value": value}))


@pytest.mark.parametrize("name", ["ü", "👩‍🚀", "a b", "../x", "%", "'", "x" * 512, "é" * 256])
async def test_any_session_id_up_to_512_bytes(history: AsyncHistoryManager, name: str) -> None:
    await history.append("another", Message.of("user", "no"))
    await history.append(name, Message.of("user", "yes"))

    assert [record.text for record in await history.last(name)] == ["yes"]
    assert (await history.get_session(name)).id == name


async def test_session_ids_are_told_apart_by_every_byte(history: AsyncHistoryManager) -> None:
    names = ["a", "A", "a ", " a", "é", "e\u0301", "ß", "ss"]
    for name in names:
        await history.append(name, Message.of("user", name))

    for name in names:
        assert [record.text for record in await history.last(name)] == [name]


async def test_a_record_of_nearly_16_mib_is_kept(history: AsyncHistoryManager) -> None:
    text = "x" * (MAX_RECORD_BYTES - 1000)
    await history.record_message("chat", "user", text)

    [found] = await history.last("chat")
    assert found.text == text


# -- newer fields


async def test_unknown_newer_fields_survive(history: AsyncHistoryManager) -> None:
    newer = {"sentiment": {"joy": 0.5}, "zz": [None]}
    message = Message.of("user", [Text(text="hi", extra={"lang": "de"})], extra=newer)
    response = LLMResponse(**CALL, usage=Usage(input_tokens=1, extra={"audio_tokens": 9}))
    await history.append("chat", message, response)

    first, second = await history.last("chat")

    assert (first.extra, first.parts[0].extra) == (newer, {"lang": "de"})
    assert second.usage.extra == {"audio_tokens": 9}
    # Read, changed and written again, they are still there.
    await history.append("copy", replace(first, name="x"), second)
    again, usage = await history.last("copy")
    assert (again.extra, again.parts[0].extra, again.name) == (newer, {"lang": "de"}, "x")
    assert usage.usage.extra == {"audio_tokens": 9}


async def test_a_copied_record_belongs_to_its_new_place(history: AsyncHistoryManager) -> None:
    await history.append("old", *[Message.of("user", str(number)) for number in range(3)])
    records = await history.last("old")

    await history.append("new", records[2], records[0])

    found = await history.last("new")
    assert [(item.session_id, item.seq, item.text) for item in found] == [
        ("new", 1, "2"), ("new", 2, "0"),
    ]  # fmt: skip
