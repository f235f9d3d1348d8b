"""OpenAIClient against the loopback server, beside the official client."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchistory import (
    ChatRequest,
    TextDelta,
)
from asynchistory.testing import LoopbackLLM, Reply
from tests.llm.asking import BOTH_WAYS, HI, KEY, ask, connect
from tests.llm.talking import TWO, USAGES
from tests.llm.test_openai_connections import raw_server

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")


# -- answers


@BOTH_WAYS
@pytest.mark.anyio
async def test_an_empty_answer(streamed: bool) -> None:
    with LoopbackLLM(Reply("")) as server:
        whole, pieces = await ask(await connect(server.url), streamed)
    assert whole.message.text == ""
    assert pieces == []


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
        Reply("Grüße\u2028aus\u0085Tromsø", usage=USAGES["openai"]),
        Reply("Counted by the server"),
        Reply(tool_calls=TWO, usage=USAGES["openai"]),
        Reply("Both", tool_calls=TWO),
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
