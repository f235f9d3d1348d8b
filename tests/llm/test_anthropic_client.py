"""AnthropicClient against the loopback server, beside the official client."""

from __future__ import annotations

import json
from typing import Any

import anyio.to_thread
import pytest

from asynchistory import (
    ChatRequest,
    ClientCreationError,
    LLMFactory,
    Message,
    Reasoning,
    ReasoningDelta,
    Text,
    TextDelta,
    ToolResultPart,
)
from asynchistory.formats import to_anthropic
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.llm.asking import BOTH_WAYS, HI, KEY, ask, connect
from tests.llm.talking import TWO, USAGES
from tests.llm.test_openai_connections import raw_server

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")


# -- answers


@BOTH_WAYS
@pytest.mark.anyio
async def test_thoughts_are_kept_with_their_signature_and_sent_back(streamed: bool) -> None:
    replies = [Reply("One.", reasoning="Hmm, six", tool_calls=TWO, chunk_size=4), Reply("Two.")]
    with LoopbackLLM(replies) as server:
        client = await connect(server.url, "anthropic")
        first, pieces = await ask(client, streamed)
        results = tuple(
            Message(role="tool", parts=(ToolResultPart(id=call.id, result="-3"),))
            for call in first.message.tool_calls
        )
        messages = (*HI.messages, first.message, *results)
        await ask(client, streamed, ChatRequest(messages=messages))
    if streamed:
        assert pieces[:2] == [ReasoningDelta("Hmm,"), ReasoningDelta(" six")]
    assert first.message.parts[0] == Reasoning("Hmm, six", signature="sig_1")
    _, answer, after = server.requests[1].body["messages"]
    thinking = {"type": "thinking", "thinking": "Hmm, six", "signature": "sig_1"}
    assert answer["content"][0] == thinking
    assert [block["type"] for block in answer["content"][1:]] == ["text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in after["content"]] == ["a", "b"]


@pytest.mark.anyio
async def test_arguments_that_are_cut_off_come_as_they_are() -> None:
    broken = CallTool("weather", '{"city": "Tro', id="a")
    with LoopbackLLM(Reply(tool_calls=[broken], finish_reason="max_tokens")) as server:
        whole, _ = await ask(await connect(server.url, "anthropic"), True)
    [call] = whole.message.tool_calls
    assert call.arguments == '{"city": "Tro'
    with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own
        call.parsed()
    # The API takes objects only.
    assert to_anthropic(whole.message)["content"][0]["input"] == {"input": '{"city": "Tro'}


@BOTH_WAYS
@pytest.mark.anyio
async def test_an_empty_answer_is_not_sent_back(streamed: bool) -> None:
    with LoopbackLLM(Reply("", finish_reason="refusal")) as server:
        client = await connect(server.url, "anthropic")
        whole, pieces = await ask(client, streamed)
        assert (whole.message.text, whole.message.parts, pieces) == ("", (), [])
        blank = Message(role="assistant", parts=(Text(" "), Text("Well.")))
        messages = (*HI.messages, whole.message, Message.of("user", "Hm?"), blank)
        await ask(client, streamed, ChatRequest(messages=messages))
    sent = server.requests[1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "user", "assistant"]
    assert sent[-1]["content"] == [{"type": "text", "text": "Well."}]


# -- requests


@BOTH_WAYS
@pytest.mark.anyio
async def test_what_is_sent(streamed: bool) -> None:
    with LoopbackLLM() as server:
        client = await connect(server.url, "anthropic", stop_sequences=["\n"])
        await ask(client, streamed)
        await ask(client, streamed, ChatRequest(messages=HI.messages, max_tokens=99))
        short = await connect(server.origin, "anthropic", max_tokens=7)
        await ask(short, streamed)
    got = server.requests[0]
    assert (got.path, got.headers["x-api-key"]) == ("/v1/messages", KEY)
    assert (got.headers["anthropic-version"], "authorization" in got.headers) == (
        "2026-10-21",
        False,
    )
    assert got.body == {
        "model": "m",
        "max_tokens": 8192,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi, Zoë 🎈"}],
        "stop_sequences": ["\n"],
        **({"stream": True} if streamed else {}),
    }
    assert [request.body["max_tokens"] for request in server.requests[1:]] == [99, 7]


@pytest.mark.anyio
async def test_a_temperature_goes_with_the_version_that_takes_it() -> None:
    with LoopbackLLM() as server:
        client = await connect(server.url, "anthropic", temperature=0.5)
        await ask(client, False)
    [got] = server.requests
    assert (got.body["temperature"], got.headers["anthropic-version"]) == (0.5, "2023-06-01")


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("claude-opus-4-7", {"temperature": 0}, "claude-opus-4-7 takes no temperature"),
        ("claude-opus-4-10-20270101", {"temperature": 0}, "takes no temperature"),
        ("claude-sonnet-5-5", {"top_p": 0.5, "top_k": 4}, "takes no top_k, top_p"),
        ("eu.anthropic.claude-haiku-5-v1:0", {"temperature": 1}, "takes no temperature"),
        (
            "claude-sonnet-4-6",
            {"temperature": 0, "anthropic_version": "2026-10-21"},
            "version 2026-10-21 of Anthropic's API takes no temperature",
        ),
        ("m", {"anthropic_version": 2}, "anthropic_version must be text"),
        ("m", {"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        ("m", {"max_retries": -1}, "max_retries must be a whole number of at least 0"),
        ("m", {"max_retries": True}, "max_retries must be a whole number"),
    ],
)
@pytest.mark.anyio
async def test_what_cannot_work_is_refused_at_creation(model: str, options: Any, said: str) -> None:
    with pytest.raises(ClientCreationError, match=said):
        await LLMFactory().get("anthropic", model, **options)


@pytest.mark.parametrize(
    "model",
    ["claude-sonnet-4-6", "claude-sonnet-4-20250514", "claude-3-5-haiku-20241022", "claude-new"],
)
@pytest.mark.anyio
async def test_older_and_unknown_models_are_given_a_temperature(model: str) -> None:
    client = await LLMFactory().get("anthropic", model, temperature=0)
    assert client.key.temperature == 0


@pytest.mark.anyio
async def test_key_and_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackLLM(api_key="sk-env") as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-env")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.origin)
        client = await LLMFactory().get("anthropic", "m")
        assert (await ask(client, True))[0].message.text == "You said: Hi, Zoë 🎈"
        monkeypatch.delenv("ANTHROPIC_BASE_URL")
        theirs = await LLMFactory().get("anthropic", "m")
    assert repr(theirs) == "<AnthropicClient m at https://api.anthropic.com/v1/messages>"


# -- streams


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


START = {"type": "message_start", "message": {"role": "assistant", "content": [], "model": "m"}}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
SAID = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ok"}}
STOP = {"type": "message_stop"}


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.anyio
async def test_events_and_deltas_of_the_future_are_passed_over() -> None:
    future = [{"type": "message_mood", "delta": "a text", "index": "none"}, {"type": "ping"}]
    colour = {"type": "content_block_delta", "index": 0, "delta": {"type": "colour", "red": 1}}
    citation = {"type": "char_location", "cited_text": "ok"}
    cited = {"type": "content_block_delta", "index": 0, "delta": {"citation": citation}}
    async with raw_server(
        http(sse(START, *future, TEXT, *future, colour, SAID, cited, STOP))
    ) as url:
        whole, pieces = await ask(await connect(url, "anthropic"), True)
    assert pieces == [TextDelta("ok")]
    assert whole.message.text == "ok"
    [block] = to_anthropic(whole.message)["content"]
    assert block == {"type": "text", "text": "ok", "citations": [citation]}


def official_answers(url: str, request: dict[str, Any]) -> Any:
    """What the official client gets, plain and streamed."""
    import anthropic

    http = anthropic.DefaultHttpxClient(trust_env=False)
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, http_client=http) as client:
        with client.messages.stream(**request) as stream:
            streamed = stream.get_final_message()
        return client.messages.create(**request), streamed


@pytest.mark.parametrize(
    "reply",
    [
        Reply("Grüße\u2028aus\u0085Tromsø", usage=USAGES["anthropic"]),
        Reply("Counted by the server"),
        Reply(tool_calls=TWO, usage=USAGES["anthropic"]),
        Reply("All", tool_calls=TWO, reasoning="Hm, hm, hm."),
    ],
    ids=["text", "counted", "tools", "all"],
)
@pytest.mark.anyio
async def test_the_official_client_gives_the_same(reply: Reply) -> None:
    pytest.importorskip("anthropic")
    with LoopbackLLM(reply) as server:
        ours = await connect(server.url, "anthropic")
        answers = [(await ask(ours, streamed))[0] for streamed in (False, True)]
        request = {**server.requests[0].body, "system": "Be brief."}
        theirs = await anyio.to_thread.run_sync(official_answers, server.origin, request)
    for got in answers:
        for message in theirs:
            blocks = [block.to_dict() for block in message.content]
            sent_back = to_anthropic(got.message)["content"]
            for block in [*blocks, *sent_back]:
                block.pop("signature", None)  # it has the number of the request in it
            assert sent_back == blocks
            assert got.finish_reason == message.stop_reason
            usage = message.usage
            cached, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
            assert got.usage is not None
            assert got.usage.input_tokens == usage.input_tokens + cached + written
            assert got.usage.output_tokens == usage.output_tokens
            assert got.usage.cached_tokens == cached
            assert got.usage.reasoning_tokens == usage.output_tokens_details.thinking_tokens
