"""OpenAIClient against the loopback server, beside the official client."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchistory import (
    ChatRequest,
    ReasoningDelta,
    TextDelta,
    ToolSpec,
    Usage,
)
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.llm.asking import BOTH_WAYS, HI, KEY, ask, connect
from tests.llm.test_openai_connections import raw_server

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (
    ToolSpec(name="weather", description="How it is", parameters=CITY),
    ToolSpec(name="time", description="", parameters={}),
)
USAGE = {
    "prompt_tokens": 31,
    "completion_tokens": 17,
    "total_tokens": 48,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
KNOWN = Usage(
    input_tokens=31, output_tokens=17, total_tokens=48, cached_tokens=8, reasoning_tokens=5
)
CALLS = [CallTool("weather", {"city": "Tromsø"}, id="a"), CallTool("time", {"zone": "UTC"}, id="b")]
# -- answers


@BOTH_WAYS
@pytest.mark.anyio
async def test_text_usage_and_the_facts_of_the_call(streamed: bool) -> None:
    with LoopbackLLM(Reply("Grüße, kurz", usage=USAGE, chunk_size=4), api_key=KEY) as server:
        whole, pieces = await ask(await connect(server.url), streamed)
    assert whole.message.role == "assistant"
    assert whole.message.text == "Grüße, kurz"
    assert (whole.model, whole.finish_reason, whole.request_id) == ("m", "stop", "req_1")
    assert whole.usage == KNOWN
    assert whole.response_time > 0
    assert (whole.time_to_first_token is not None) == streamed
    assert whole.time_to_first_token is None or whole.time_to_first_token <= whole.response_time
    assert pieces == ([TextDelta("Grüß"), TextDelta("e, k"), TextDelta("urz")] if streamed else [])


@BOTH_WAYS
@pytest.mark.anyio
async def test_parallel_tool_calls(streamed: bool) -> None:
    with LoopbackLLM(Reply("Let me see.", tool_calls=CALLS, chunk_size=3)) as server:
        request = ChatRequest(messages=HI.messages, tools=TOOLS)
        whole, _ = await ask(await connect(server.url), streamed, request)
    assert whole.finish_reason == "tool_calls"
    assert whole.message.text == "Let me see."
    calls = whole.message.tool_calls
    assert [(call.id, call.name, call.parsed()) for call in calls] == [
        ("a", "weather", {"city": "Tromsø"}),
        ("b", "time", {"zone": "UTC"}),
    ]
    sent = [tool["function"] for tool in server.requests[0].body["tools"]]
    assert [function["name"] for function in sent] == ["weather", "time"]
    assert sent[0]["parameters"] == CITY
    assert sent[1]["parameters"]["type"] == "object"


@BOTH_WAYS
@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
@pytest.mark.anyio
async def test_finish_reasons_are_the_provider_s(streamed: bool, reason: str) -> None:
    with LoopbackLLM(Reply("Cut o", finish_reason=reason)) as server:
        whole, _ = await ask(await connect(server.url), streamed)
    assert whole.finish_reason == reason


@BOTH_WAYS
@pytest.mark.anyio
async def test_unknown_usage_is_none(streamed: bool) -> None:
    with LoopbackLLM(Reply("a", usage={})) as server:
        whole, _ = await ask(await connect(server.url), streamed)
    assert whole.usage is None


@BOTH_WAYS
@pytest.mark.anyio
async def test_an_empty_answer(streamed: bool) -> None:
    with LoopbackLLM(Reply("")) as server:
        whole, pieces = await ask(await connect(server.url), streamed)
    assert whole.message.text == ""
    assert pieces == []


@pytest.mark.anyio
async def test_reasoning_comes_as_deltas_of_its_own() -> None:
    with LoopbackLLM(Reply("42", reasoning="Hmm, six", chunk_size=4)) as server:
        client = await connect(server.url)
        streamed, pieces = await ask(client, True)
        plain, _ = await ask(client, False)
    assert pieces == [ReasoningDelta("Hmm,"), ReasoningDelta(" six"), TextDelta("42")]
    assert streamed.message.text == plain.message.text == "42"
    assert [type(part).__name__ for part in plain.message.parts] == ["Reasoning", "Text"]
    # What is recorded of an answer must not depend on how it came.
    assert streamed.message.parts == plain.message.parts


@BOTH_WAYS
@pytest.mark.anyio
async def test_what_is_sent(streamed: bool) -> None:
    with LoopbackLLM() as server:
        client = await connect(server.url, temperature=0.5, seed=7, stop=["\n"])
        await ask(client, streamed, ChatRequest(messages=HI.messages, max_tokens=99))
    [got] = server.requests
    body = got.body
    assert (got.path, got.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"], body["seed"], body["stop"]) == ("m", 0.5, 7, ["\n"])
    assert body["max_completion_tokens"] == 99
    assert bool(body.get("stream")) == streamed
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi, Zoë 🎈"},
    ]
    assert "timeout" not in body
    assert "tools" not in body


@BOTH_WAYS
@pytest.mark.anyio
async def test_without_a_key_none_is_sent_and_a_callable_is_asked_each_time(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keys = iter(["sk-one", "sk-two"])
    with LoopbackLLM() as server:
        keyless = await connect(server.url, api_key=None)
        await ask(keyless, streamed)
        rotating = await connect(server.url, api_key=lambda: next(keys))
        await ask(rotating, streamed)
        await ask(rotating, streamed)
    given_keys = [request.headers.get("authorization") for request in server.requests]
    assert given_keys == [None, "Bearer sk-one", "Bearer sk-two"]


def official_answers(url: str, messages: Any) -> tuple[Any, list[Any]]:
    """What the official client gets, plain and streamed."""
    import openai

    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, http_client=http) as client:
        create = client.chat.completions.create
        plain = create(model="m", messages=messages)
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        return plain, list(create(model="m", messages=messages, **options))


@pytest.mark.parametrize(
    "reply",
    [
        Reply("Grüße\u2028aus\u0085Tromsø", usage=USAGE),
        Reply("Counted by the server"),
        Reply(tool_calls=CALLS, usage=USAGE),
        Reply("Both", tool_calls=CALLS),
    ],
    ids=["text", "counted", "tools", "both"],
)
@pytest.mark.anyio
async def test_the_official_client_gives_the_same(reply: Reply) -> None:
    pytest.importorskip("openai")
    with LoopbackLLM(reply) as server:
        ours = await connect(server.url)
        answers = [await ask(ours, streamed) for streamed in (False, True)]
        messages = server.requests[0].body["messages"]
        # In a thread: on trio its asynchronous twin leaves generators unfinished.
        plain, chunks = await anyio.to_thread.run_sync(official_answers, server.url, messages)
    message, usage = plain.choices[0].message, plain.usage
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert text == (message.content or "")
    assert chunks[-1].usage == usage
    calls = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    for whole, _ in answers:
        got = whole.message
        assert got.text == text
        assert [(c.id, c.name, c.arguments) for c in got.tool_calls] == calls
        assert whole.finish_reason == plain.choices[0].finish_reason
        assert whole.usage is not None
        assert whole.usage.input_tokens == usage.prompt_tokens
        assert whole.usage.output_tokens == usage.completion_tokens
        assert whole.usage.total_tokens == usage.total_tokens
        assert whole.usage.cached_tokens == usage.prompt_tokens_details.cached_tokens
        assert whole.usage.reasoning_tokens == usage.completion_tokens_details.reasoning_tokens


def fragment(index: int | None, call_id: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": "f" if call_id else None, "arguments": arguments}
    return {"index": index, "id": call_id, "function": function}


def sse(*deltas: dict[str, Any]) -> bytes:
    chunks = [json.dumps({"choices": [{"delta": delta}]}).encode() for delta in deltas]
    body = b"".join(b"data: " + chunk + b"\n\n" for chunk in [*chunks, b"[DONE]"])
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "fragments",
    [
        [fragment(0, "a", '{"n"'), fragment(1, "b", "{}"), fragment(0, None, ": 1}")],
        [fragment(0, "a", '{"n": 1}'), fragment(0, "b", "{}")],
        [fragment(None, "a", '{"n": 1}'), fragment(None, "b", "{}")],
    ],
    ids=["interleaved", "one index", "no index"],
)
@pytest.mark.anyio
async def test_parallel_calls_as_servers_send_them(fragments: list[Any]) -> None:
    deltas = [{"tool_calls": [one]} for one in fragments]
    async with raw_server(sse(*deltas)) as url:
        whole, _ = await ask(await connect(url), True)
    calls = whole.message.tool_calls
    assert [(call.id, call.parsed()) for call in calls] == [("a", {"n": 1}), ("b", {})]


@pytest.mark.anyio
async def test_a_refusal_is_what_the_model_says() -> None:
    async with raw_server(sse({"refusal": "I will "}, {"refusal": "not."})) as url:
        whole, pieces = await ask(await connect(url), True)
    assert pieces == [TextDelta("I will "), TextDelta("not.")]
    assert whole.message.text == "I will not."
