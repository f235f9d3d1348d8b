"""OpenAI's messages to records and back: nothing lost, and what others make of them."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asynchistory.codec import decode_body, encode_record
from asynchistory.errors import InvalidRecordError
from asynchistory.formats import (
    conversation_from_anthropic,
    conversation_from_openai,
    conversation_to_openai,
    from_anthropic,
    from_openai,
    to_openai,
)
from asynchistory.pairing import pair_tools
from asynchistory.records import (
    Blob,
    CorruptRecord,
    File,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Uri,
)

REAL = Path(__file__).parents[3] / "shared" / "data" / "tau_bench_gpt4o_airline.json"
PIXEL = base64.b64encode(b"\x89PNG").decode()
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def strict(value: Any) -> str:
    """1, 1.0 and True differ; the order of keys does not."""
    return json.dumps(value, sort_keys=True)


def stored(record: Message) -> Message:
    """The record as a store gives it back."""
    read = decode_body(encode_record(record).body)
    assert isinstance(read, Message)
    return read


def assert_lossless(message: dict[str, Any]) -> Message:
    before = copy.deepcopy(message)
    record = from_openai(message)
    assert strict(to_openai(record)) == strict(before)
    assert strict(to_openai(stored(record))) == strict(before)
    assert strict(message) == strict(before)
    return record


COMPACT: list[tuple[dict[str, Any], Message]] = [
    ({"role": "user", "content": "Hi"}, Message.of("user", "Hi")),
    ({"role": "user", "content": ""}, Message.of("user", "")),
    ({"role": "system", "content": "Hm", "name": "s"}, Message.of("system", "Hm", name="s")),
    ({"role": "developer", "content": "Be brief"}, Message.of("developer", "Be brief")),
    ({"role": "critic", "content": "No"}, Message.of("critic", "No")),
    ({"role": "assistant", "content": None}, Message.of("assistant", ())),
    (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        Message.of("assistant", [ToolCallPart(id="c1", name="f", arguments='{"a": 1}')]),
    ),
    (
        {"role": "assistant", "content": "Now", "tool_calls": [CALL, {**CALL, "id": ""}]},
        Message.of("assistant", [
            Text(text="Now"),
            ToolCallPart(id="c1", name="f", arguments='{"a": 1}'),
            ToolCallPart(id="", name="f", arguments='{"a": 1}'),
        ]),
    ),
    (
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "42"},
        Message.of("tool", [ToolResultPart(id="c1", result="42", name="f")]),
    ),
    (
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]},
        Message.of("tool", [ToolResultPart(id="c1", result=[{"type": "text", "text": "4"}])]),
    ),
    (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        Message.of("assistant", [ToolCallPart(id="", name="f", arguments="{}")]),
    ),
    (
        {"role": "function", "name": "f", "content": "42"},
        Message.of("tool", [ToolResultPart(id="", name="f", result="42")]),
    ),
    (
        {"role": "user", "content": [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "mp3"}},
            {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {
                "filename": "file.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}",
            }},
        ]},
        Message.of("user", [
            Text(text="See"),
            Uri(uri="https://example.org/a.png"),
            Blob(data=b"\x89PNG", mime_type="image/png"),
            Blob(data=b"\x89PNG", mime_type="audio/mpeg"),
            Blob(data=b"\x89PNG", mime_type="audio/wav"),
            File(file_id="file-1"),
            Blob(data=b"\x89PNG", mime_type="application/pdf"),
        ]),
    ),
]  # fmt: skip

ODD: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"role": "user"}, ()),
    ({"role": "user", "content": None}, ()),
    ({"role": "user", "content": []}, ()),
    (
        {"role": "assistant", "tool_calls": [CALL]},
        (ToolCallPart(id="c1", name="f", arguments='{"a": 1}'),),
    ),
    ({"role": "assistant", "content": "", "tool_calls": []}, (Text(text=""),)),
    ({"role": "user", "content": [{"type": "text", "text": "one"}]}, (Text(text="one"),)),
    ({"role": "user", "content": ["one", 2]}, (Text(text="one"),)),
    ({"role": "user", "content": "Hi", "name": None}, (Text(text="Hi"),)),
    (
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://e.org/a", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}},
            {"type": "hologram", "hologram": {}},
        ]},
        (Uri(uri="https://e.org/a"), Uri(uri="data:image/png;base64,?")),
    ),
    (
        {"role": "assistant", "content": None, "refusal": "I won't"},
        (Text(text="I won't"),),
    ),
    ({"role": "assistant", "content": "Hi", "refusal": "No"}, (Text(text="Hi"),)),
    (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        (Text(text="No"),),
    ),
    (
        {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "Ahem"}},
        (Text(text="Ahem"),),
    ),
    (
        {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
        (Text(text="Hi"),),
    ),
    (
        {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
        (Reasoning(text="2+2"), Text(text="4")),
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
        ]},
        (ToolCallPart(id="c", name="sh", arguments="ls"),),
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}, "?", {}]},
        (ToolCallPart(id="c1", name="f", arguments='{"a": 1}'),),
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": ""}]},
        (ToolCallPart(id="", name="f", arguments='{"a": 1}'),),
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1.0}}},
        ]},
        (ToolCallPart(id="c", name="f", arguments={"a": 1.0}),),
    ),
    ({"role": "tool", "tool_call_id": "c1", "content": None}, (ToolResultPart(id="c1"),)),
    ({"role": "tool", "content": "?"}, (ToolResultPart(id="", result="?"),)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "record"), COMPACT)
def test_common_messages_need_no_raw(message: dict[str, Any], record: Message) -> None:
    assert assert_lossless(message) == record


@pytest.mark.parametrize(("message", "parts"), ODD)
def test_odd_messages_keep_their_own_payload(
    message: dict[str, Any], parts: tuple[Any, ...]
) -> None:
    record = assert_lossless(message)
    assert record.raw is not None
    assert record.raw.items() <= message.items()
    assert (record.raw == message) == (record.raw_format == "openai")
    assert record.parts == parts


def test_an_api_s_answer_is_not_kept_twice() -> None:
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}
    record = assert_lossless(answer)
    assert record.raw == {"refusal": None, "annotations": []}
    assert record.raw_format == "openai+"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
PARTS = [part for message, _ in COMPACT + ODD if isinstance(message.get("content"), list)
         for part in message["content"]]  # fmt: skip
FIELDS = {
    name: st.sampled_from([message[name] for message, _ in COMPACT + ODD if name in message]) | JSON
    for name in sorted({name for message, _ in COMPACT + ODD for name in message} - {"role"})
}
FIELDS["content"] = st.none() | st.text(max_size=8) | st.lists(
    st.sampled_from(PARTS) | JSON, max_size=3
)  # fmt: skip
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "?"])


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """Messages that are nearly right, with fields of all kinds missing, wrong or unknown."""
    message = draw(st.fixed_dictionaries({"role": ROLES}, optional=FIELDS))
    return {**draw(st.dictionaries(st.text(max_size=4), JSON, max_size=1)), **message}


@given(messages())
def test_any_message_comes_back_strictly_equal(message: dict[str, Any]) -> None:
    assert_lossless(message)


@given(st.lists(messages(), max_size=4))
def test_any_conversation_comes_back_strictly_equal(conversation: list[dict[str, Any]]) -> None:
    records = [stored(record) for record in conversation_from_openai(conversation)]
    assert strict(conversation_to_openai(records)) == strict(conversation)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "SECRET",
        [("role", "user")],
        {},
        {"content": "SECRET"},
        {"role": None, "content": "SECRET"},
        {"role": "", "content": "SECRET"},
        {"role": ["SECRET"]},
        {"role": "user", "content": 1},
        {"role": "user", "content": {"text": "SECRET"}},
        {"role": "user", "content": True},
        {"role": "user", "content": ("SECRET",)},
        {"role": "user", "content": b"SECRET"},
        {"role": "user", "content": "SECRET\ud800"},
        {"role": "user", "content": "SECRET", "x": float("nan")},
        {"role": "user", "content": "SECRET", "x": {1: 2}},
        {"role": "user", "content": "SECRET", "x": 10**5000},
    ],
)
def test_a_malformed_message_is_refused_without_being_quoted(message: Any) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        from_openai(message)
    assert "SECRET" not in str(caught.value)


def test_a_message_too_deep_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRecordError, match="200 levels"):
        from_openai({"role": "user", "content": deep})


def test_nothing_is_shared_with_the_caller() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}], "x": {"y": [1]}}
    record = from_openai(message)
    message["x"]["y"].append(2)  # type: ignore[index]
    to_openai(record)["x"]["y"].append(3)
    assert to_openai(record)["x"] == {"y": [1]}


def test_what_openai_has_no_words_for() -> None:
    record = Message.of("assistant", [
        Reasoning(text="hm", signature="s"),
        Text(text="a"),
        Uri(uri="https://e.org/a.pdf", mime_type="application/pdf"),
        Blob(data=b"abc"),
    ])  # fmt: skip
    assert [part["text"] for part in to_openai(record)["content"]] == [
        "a", "https://e.org/a.pdf", "[data, 3 bytes, left out]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("result", "content"),
    [
        (None, ""),
        ([], "[]"),
        ([1], "[1]"),
        ({"a": 1}, '{"a":1}'),
        (0, "0"),
        ([{"type": "text", "text": "a", "cache_control": None}], [{"type": "text", "text": "a"}]),
        ([{"type": "image", "source": {}}], [{"type": "text", "text": "[image, left out]"}]),
        ([{"type": "dog"}], '[{"type":"dog"}]'),
    ],
)
def test_tool_results_of_any_kind(result: Any, content: Any) -> None:
    record = Message.of("tool", [ToolResultPart(id="c", result=result)])
    assert to_openai(record) == {"role": "tool", "tool_call_id": "c", "content": content}


def test_arguments_become_json_text() -> None:
    record = Message.of("assistant", [
        ToolCallPart(id="a", name="f", arguments={"x": [1]}), ToolCallPart(id="b", name="g"),
    ])  # fmt: skip
    calls = to_openai(record)["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"x":[1]}', "{}"]


def test_a_conversation_of_anthropic() -> None:
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Let me see", "citations": []},
            {"type": "tool_use", "id": "a", "name": "sum", "input": {"x": 1}},
            {"type": "tool_use", "id": "b", "name": "sum", "input": {"x": 2}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "1"},
            {"type": "tool_result", "tool_use_id": "b", "is_error": True},
            {"type": "text", "text": "and?"},
        ]},
    ]  # fmt: skip
    records = conversation_from_anthropic(conversation, system="Be brief")
    assert conversation_to_openai(records) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": "Let me see", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "sum", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "sum", "arguments": '{"x":2}'}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": "and?"},
    ]  # fmt: skip


def test_a_record_that_makes_several_messages_says_what_to_use() -> None:
    block = {"type": "tool_result", "tool_use_id": "a", "content": "1"}
    record = from_anthropic({"role": "user", "content": [block, block]})
    with pytest.raises(InvalidRecordError, match="conversation_to_openai"):
        to_openai(record)


def test_an_answer_stands_after_its_call_even_in_one_record() -> None:
    record = Message.of("assistant", [
        ToolCallPart(id="a", name="f"), ToolResultPart(id="a", result="1"),
    ])  # fmt: skip
    assert [m["role"] for m in conversation_to_openai([record])] == ["assistant", "tool"]


def test_other_records_are_no_messages() -> None:
    damaged = CorruptRecord(session_id="s", seq=1, reason="checksum")
    assert conversation_to_openai([ToolCall(name="f"), damaged, Message.of("user", "a")]) == [
        {"role": "user", "content": "a"}
    ]


@pytest.mark.skipif(not REAL.exists(), reason="the real conversations are not here")
def test_real_conversations() -> None:
    conversations = [run["traj"] for run in json.loads(REAL.read_text())]
    results = 0
    for conversation in conversations:
        records = [stored(record) for record in conversation_from_openai(conversation)]
        assert strict(conversation_to_openai(records)) == strict(conversation)
        assert [strict(to_openai(record)) for record in records] == list(map(strict, conversation))
        assert not any(record.raw for record in records)
        results += len(pair_tools(records).pairs)
    assert sum(map(len, conversations)) == 5308
    assert results == 1164
