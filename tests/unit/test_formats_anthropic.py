"""Anthropic's messages to records and back: nothing lost, and what others make of them."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from asynchistory.codec import decode_body, encode_record
from asynchistory.errors import InvalidRecordError
from asynchistory.formats import (
    AnthropicConversation,
    conversation_from_anthropic,
    conversation_from_openai,
    conversation_to_anthropic,
    from_anthropic,
    from_openai,
    to_anthropic,
)
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
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
SAY = {"type": "text", "text": "Hi"}


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
    record = from_anthropic(message)
    assert strict(to_anthropic(record)) == strict(before)
    assert strict(to_anthropic(stored(record))) == strict(before)
    assert strict(message) == strict(before)
    return record


def source(kind: Any, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


COMPACT: list[tuple[dict[str, Any], Message]] = [
    ({"role": "user", "content": "Hi"}, Message.of("user", "Hi")),
    ({"role": "user", "content": ""}, Message.of("user", "")),
    ({"role": "user", "content": []}, Message.of("user", ())),
    ({"role": "system", "content": "Be brief"}, Message.of("system", "Be brief")),
    ({"role": "assistant", "content": [SAY]}, Message.of("assistant", "Hi")),
    (
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "", "signature": "s"}, SAY, USE,
        ]},
        Message.of("assistant", [
            Reasoning(text="", signature="s"),
            Text(text="Hi"),
            ToolCallPart(id="t1", name="f", arguments={"a": 1}),
        ]),
    ),
    (
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1"},
            {"type": "tool_result", "tool_use_id": "t2", "content": ""},
            {"type": "tool_result", "tool_use_id": "t3", "content": [SAY], "is_error": True},
            SAY,
        ]},
        Message.of("user", [
            ToolResultPart(id="t1"),
            ToolResultPart(id="t2", result=""),
            ToolResultPart(id="t3", result=[SAY], is_error=True),
            Text(text="Hi"),
        ]),
    ),
    (
        {"role": "user", "content": [
            {"type": "image", "source": source("url", url="https://e.org/a.png")},
            {"type": "image", "source": source("base64", media_type="image/png", data=PIXEL)},
            {"type": "document", "source": source("url", url="https://e.org/a.pdf")},
            {"type": "document", "source": source(
                "base64", media_type="application/pdf", data=PIXEL)},
            {"type": "document", "source": source("text", media_type="text/plain", data="é")},
            {"type": "document", "source": source("file", file_id="file_1")},
        ]},
        Message.of("user", [
            Uri(uri="https://e.org/a.png"),
            Blob(data=b"\x89PNG", mime_type="image/png"),
            Uri(uri="https://e.org/a.pdf", mime_type="application/pdf"),
            Blob(data=b"\x89PNG", mime_type="application/pdf"),
            Blob(data="é".encode(), mime_type="text/plain"),
            File(file_id="file_1"),
        ]),
    ),
]  # fmt: skip

ODD: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"role": "user"}, ()),
    ({"role": "user", "content": None}, ()),
    ({"role": "assistant", "content": "Hi"}, (Text(text="Hi"),)),
    ({"role": "user", "content": [SAY]}, (Text(text="Hi"),)),
    ({"role": "user", "content": ["Hi", 1]}, (Text(text="Hi"),)),
    ({"role": "developer", "content": "Hi"}, (Text(text="Hi"),)),
    ({"role": "tool", "content": "Hi"}, (Text(text="Hi"),)),
    ({"role": "user", "content": "Hi", "name": "Ann"}, (Text(text="Hi"),)),
    (
        {"role": "user", "content": [{**SAY, "cache_control": {"type": "ephemeral"}}]},
        (Text(text="Hi"),),
    ),
    (
        {"role": "assistant", "content": [{**SAY, "citations": [{"type": "char_location"}]}]},
        (Text(text="Hi"),),
    ),
    (
        {"role": "assistant", "content": [SAY, {**SAY, "text": ""}]},
        (Text(text="Hi"), Text(text="")),
    ),
    (
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "hm"},
        ]},
        (Reasoning(text=""), Reasoning(text="hm")),
    ),
    (
        {"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            SAY,
        ]},
        (Text(text="Hi"),),
    ),
    (
        {"role": "assistant", "content": [{**USE, "caller": {"type": "direct"}}]},
        (ToolCallPart(id="t1", name="f", arguments={"a": 1}),),
    ),
    (
        {"role": "assistant", "content": [{**USE, "input": '{"a": 1}'}]},
        (ToolCallPart(id="t1", name="f", arguments='{"a": 1}'),),
    ),
    (
        {"role": "assistant", "content": [{**USE, "input": "[" * 5000}]},
        (ToolCallPart(id="t1", name="f", arguments="[" * 5000),),
    ),
    (
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "1", "is_error": False},
            {"type": "tool_result", "tool_use_id": "t2", "content": None},
            {"type": "tool_result", "tool_use_id": "t3", "content": []},
            {"type": "tool_result", "tool_use_id": "t4", "content": [{"type": "new"}]},
        ]},
        (
            ToolResultPart(id="t1", result="1"),
            ToolResultPart(id="t2"),
            ToolResultPart(id="t3", result=[]),
            ToolResultPart(id="t4", result=[{"type": "new"}]),
        ),
    ),
    (
        {"role": "user", "content": [
            {"type": "image", "source": source("file", file_id="file_1")},
            {"type": "image", "source": source("base64", media_type="image/png", data="?")},
            {"type": "image", "source": None},
            {"type": "document", "title": "T", "source": source("content", content="a")},
            {"type": "document", "source": source("content", content=[SAY])},
            {"type": "search_result", "source": "s", "title": "T", "content": [SAY]},
            {"type": "container_upload", "file_id": "file_2"},
            {"type": ["text"]},
            {"type": "image", "source": source(["url"])},
        ]},
        (File(file_id="file_1"), Text(text="a"), Text(text="Hi"), Text(text="Hi")),
    ),
    (
        {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [SAY],
         "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 2}},
        (Text(text="Hi"),),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "record"), COMPACT)
def test_common_messages_need_no_raw(message: dict[str, Any], record: Message) -> None:
    assert assert_lossless(message) == record


@pytest.mark.parametrize(("message", "parts"), ODD)
def test_odd_messages_keep_their_own_payload(
    message: dict[str, Any], parts: tuple[Any, ...]
) -> None:
    record = assert_lossless(message)
    assert record.raw == message
    assert record.raw_format == "anthropic"
    assert record.parts == parts


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
BLOCKS = [block for message, _ in COMPACT + ODD if isinstance(message.get("content"), list)
          for block in message["content"]]  # fmt: skip
FIELDS = st.sampled_from(sorted({key for b in BLOCKS if isinstance(b, dict) for key in b}))


@st.composite
def blocks(draw: st.DrawFn) -> Any:
    """A block, with one of its fields missing or of any value."""
    block = draw(st.sampled_from(BLOCKS) | JSON)
    if not isinstance(block, dict) or draw(st.booleans()):
        return block
    field = draw(FIELDS)
    changed = {key: value for key, value in block.items() if key != field}
    return changed if draw(st.booleans()) else {**changed, field: draw(JSON)}


ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "?"])
COMMON = st.sampled_from([message for message, _ in COMPACT])
CONTENT = st.none() | st.text(max_size=8) | st.lists(blocks(), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """Messages that are nearly right, with fields of all kinds missing, wrong or unknown."""
    message = draw(st.fixed_dictionaries({"role": ROLES}, optional={"content": CONTENT}))
    unknown = st.dictionaries(st.text(max_size=4) | st.just("name"), JSON, max_size=1)
    return {**draw(unknown), **message}


@given(messages())
def test_any_message_comes_back_strictly_equal(message: dict[str, Any]) -> None:
    assert_lossless(message)


@given(st.lists(messages() | COMMON, max_size=6), CONTENT)
def test_any_conversation_comes_back_strictly_equal(
    conversation: list[dict[str, Any]], system: Any
) -> None:
    records = [stored(record) for record in conversation_from_anthropic(conversation, system)]
    assert strict(conversation_to_anthropic(records)) == strict([system, conversation])


def test_a_conversation_of_its_own_is_not_tidied() -> None:
    done = {"type": "tool_result", "tool_use_id": "t1", "content": "1"}
    conversation: list[dict[str, Any]] = [
        {"role": "assistant", "content": [USE, USE]},
        {"role": "user", "content": [done, done]},
        {"role": "user", "content": [done]},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "Hi"},
    ]
    records = conversation_from_anthropic(conversation)
    assert not any(record.raw for record in records)
    assert conversation_to_anthropic(records) == (None, conversation)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "SECRET",
        {"content": "SECRET"},
        {"role": 1, "content": "SECRET"},
        {"role": "user", "content": 1},
        {"role": "user", "content": {"type": "text", "text": "SECRET"}},
        {"role": "user", "content": [{"type": "text", "text": b"SECRET"}]},
        {"role": "user", "content": "SECRET\ud800"},
    ],
)
def test_a_malformed_message_is_refused_without_being_quoted(message: Any) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        from_anthropic(message)
    assert "SECRET" not in str(caught.value)


def test_nothing_is_shared_with_the_caller() -> None:
    message = {"role": "assistant", "content": [copy.deepcopy(USE)]}
    record = from_anthropic(message)
    message["content"][0]["input"]["a"] = 2  # type: ignore[index]
    to_anthropic(record)["content"][0]["input"]["a"] = 3
    assert to_anthropic(record) == {"role": "assistant", "content": [USE]}


def test_changed_parts_count_once_raw_is_gone() -> None:
    record = from_anthropic({"role": "user", "content": [SAY]})
    changed = replace(record, parts=(Text(text="Bye"),), raw=None)
    assert to_anthropic(changed) == {"role": "user", "content": "Bye"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {"role": "developer", "content": "Be brief", "name": "d"},
            {"role": "system", "content": "Be brief"},
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "d", "type": "function", "function": {"name": "f", "arguments": ""}},
                {"id": "e", "type": "function", "function": {"name": "f", "arguments": "{oops"}},
                {"id": "f", "type": "custom", "custom": {"name": "f", "input": "[1]"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "d", "name": "f", "input": {}},
                {"type": "tool_use", "id": "e", "name": "f", "input": {"input": "{oops"}},
                {"type": "tool_use", "id": "f", "name": "f", "input": {"input": [1]}},
            ]},
        ),
        (
            {"role": "tool", "tool_call_id": "c", "content": "42"},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": "42"},
            ]},
        ),
        (
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {
                    "url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
            ]},
            {"role": "user", "content": [
                {"type": "image", "source": source("base64", media_type="image/png", data=PIXEL)},
                {"type": "text", "text": "[audio/wav, 4 bytes, left out]"},
            ]},
        ),
    ],
)  # fmt: skip
def test_a_message_of_openai(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert to_anthropic(from_openai(message)) == expected


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Uri(uri="e.html", mime_type="text/html"), {"type": "text", "text": "e.html"}),
        (Blob(data=b"\xff", mime_type="text/plain"), {"type": "document", "source": source(
            "text", media_type="text/plain", data="\ufffd")}),
        (
            ToolResultPart(id="c", result=[]),
            {"type": "tool_result", "tool_use_id": "c", "content": "[]"},
        ),
        (
            ToolResultPart(id="c", result=0),
            {"type": "tool_result", "tool_use_id": "c", "content": "0"},
        ),
    ],
)  # fmt: skip
def test_parts_of_elsewhere(part: Any, block: dict[str, Any]) -> None:
    assert to_anthropic(Message.of("assistant", [part]))["content"] == [block]


def test_reasoning_without_a_signature_is_left_out() -> None:
    record = Message.of("assistant", [Reasoning(text="hm"), Text(text="Hi")])
    assert to_anthropic(record) == {"role": "assistant", "content": [SAY]}


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def answer(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_a_conversation_of_openai() -> None:
    records = conversation_from_openai([
        {"role": "system", "content": "Be brief"},
        {"role": "developer", "content": "Be kind"},
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]},
        answer("a", "1"),
        answer("b", "2"),
        {"role": "system", "content": "Hurry"},
        {"role": "assistant", "content": "3"},
    ])  # fmt: skip
    damaged = CorruptRecord(session_id="s", seq=1, reason="checksum")
    assert conversation_to_anthropic([ToolCall(name="f"), damaged, *records]) == (
        [{"type": "text", "text": "Be brief"}, {"type": "text", "text": "Be kind"}],
        [
            {"role": "user", "content": "Sum?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {}},
                {"type": "tool_use", "id": "b", "name": "f", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                {"type": "tool_result", "tool_use_id": "b", "content": "2"},
            ]},
            {"role": "system", "content": "Hurry"},
            {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
        ],
    )  # fmt: skip


def test_ids_that_repeat_or_are_invalid_are_changed_in_call_and_result() -> None:
    ids = ["a", "a", "a_2", "a", "", "é.b"]
    conversation = []
    for place, call_id in enumerate(ids):
        conversation.append({"role": "assistant", "content": None, "tool_calls": [call(call_id)]})
        conversation.append(answer(call_id, str(place)))
    records = conversation_from_openai(conversation)
    sent = conversation_to_anthropic(records).messages
    called = [m["content"][0]["id"] for m in sent if m["role"] == "assistant"]
    answered = [m["content"][0]["tool_use_id"] for m in sent if m["role"] == "user"]
    assert called == answered == ["a", "a_3", "a_2", "a_4", "call", "__b"]
    assert [m["content"][0]["content"] for m in sent[1::2]] == list("012345")
    assert [part.id for record in records for part in record.tool_calls] == ids


def test_a_legacy_function_call_gets_an_id() -> None:
    records = conversation_from_openai([
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ])  # fmt: skip
    sent = conversation_to_anthropic(records).messages
    assert sent[0]["content"][0]["id"] == sent[1]["content"][0]["tool_use_id"] == "call"


@pytest.mark.parametrize(
    "system", [None, "", "Be brief", [], [SAY], [{**SAY, "cache_control": {}}]]
)
def test_the_system_prompt_is_apart(system: Any) -> None:
    in_messages = {"role": "system", "content": "Not the prompt"}
    records = conversation_from_anthropic([in_messages, {"role": "user", "content": "Hi"}], system)
    kept = conversation_to_anthropic([stored(record) for record in records])
    assert kept == AnthropicConversation(system, [in_messages, {"role": "user", "content": "Hi"}])
    assert to_anthropic(records[0])["role"] == "system"


@pytest.mark.skipif(not REAL.exists(), reason="the real conversations are not here")
def test_real_conversations_of_openai_are_sendable() -> None:
    for run in json.loads(REAL.read_text()):
        system, sent = conversation_to_anthropic(conversation_from_openai(run["traj"]))
        called = [b["id"] for m in sent for b in m["content"] if b_type(b) == "tool_use"]
        answered = [
            b["tool_use_id"] for m in sent for b in m["content"] if b_type(b) == "tool_result"
        ]
        assert isinstance(system, str)
        assert len(set(called)) == len(called)
        assert all(re.fullmatch("[a-zA-Z0-9_-]+", name) for name in called)
        assert set(answered) <= set(called)
        assert {m["role"] for m in sent} <= {"user", "assistant"}


def b_type(block: Any) -> str | None:
    return block["type"] if isinstance(block, dict) else None
