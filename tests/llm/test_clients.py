"""What each client makes of an answer, whatever the format, plain and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from asynchistory import ChatRequest, ReasoningDelta, TextDelta, ToolSpec, Usage
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.llm.asking import BOTH_FORMATS, BOTH_WAYS, HI, KEY, ask, connect
from tests.llm.talking import USAGES

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (
    ToolSpec(name="weather", description="How it is", parameters=CITY),
    ToolSpec(name="time", description="", parameters={}),
)
CALLS = [CallTool("weather", {"city": "Tromsø"}, id="a"), CallTool("time", {"zone": "UTC"}, id="b")]
#: What both of :data:`USAGES` say.
KNOWN = Usage(
    input_tokens=1000, output_tokens=10, total_tokens=1010, cached_tokens=100, reasoning_tokens=4
)
#: Their words for an end and for calls.
WORDS = {"openai": ("stop", "tool_calls"), "anthropic": ("end_turn", "tool_use")}


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_text_usage_and_the_facts_of_the_call(streamed: bool, provider: str) -> None:
    reply = Reply("Grüße, kurz", usage=USAGES[provider], chunk_size=4)
    with LoopbackLLM(reply, api_key=KEY) as server:
        whole, pieces = await ask(await connect(server.url, provider), streamed)
    assert (whole.message.role, whole.message.text) == ("assistant", "Grüße, kurz")
    assert (whole.model, whole.finish_reason) == ("m", WORDS[provider][0])
    assert (whole.request_id, whole.attempts, whole.usage) == ("req_1", 1, KNOWN)
    assert whole.response_time > 0
    assert (whole.time_to_first_token is not None) == streamed
    assert whole.time_to_first_token is None or whole.time_to_first_token <= whole.response_time
    assert pieces == ([TextDelta("Grüß"), TextDelta("e, k"), TextDelta("urz")] if streamed else [])


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_parallel_tool_calls(streamed: bool, provider: str) -> None:
    with LoopbackLLM(Reply("Let me see.", tool_calls=CALLS, chunk_size=3)) as server:
        request = ChatRequest(messages=HI.messages, tools=TOOLS)
        whole, _ = await ask(await connect(server.url, provider), streamed, request)
    assert (whole.finish_reason, whole.message.text) == (WORDS[provider][1], "Let me see.")
    assert [(call.id, call.name, call.parsed()) for call in whole.message.tool_calls] == [
        ("a", "weather", {"city": "Tromsø"}),
        ("b", "time", {"zone": "UTC"}),
    ]
    sent = [tool.get("function", tool) for tool in server.requests[0].body["tools"]]
    schemas = [tool.get("parameters", tool.get("input_schema")) for tool in sent]
    assert [tool["name"] for tool in sent] == ["weather", "time"]
    assert schemas == [CITY, {"type": "object", "properties": {}}]


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.parametrize("reason", ["length", "max_tokens", "content_filter", "refusal"])
@pytest.mark.anyio
async def test_finish_reasons_are_the_provider_s(
    streamed: bool, reason: str, provider: str
) -> None:
    with LoopbackLLM(Reply("Cut o", finish_reason=reason)) as server:
        whole, _ = await ask(await connect(server.url, provider), streamed)
    assert whole.finish_reason == reason


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.parametrize("usage", [{}, {"output_tokens": "many", "prompt_tokens": -1}])
@pytest.mark.anyio
async def test_unknown_usage_is_none(streamed: bool, usage: Any, provider: str) -> None:
    with LoopbackLLM(Reply("a", usage=usage)) as server:
        whole, _ = await ask(await connect(server.url, provider), streamed)
    assert whole.usage is None


@BOTH_FORMATS
@pytest.mark.anyio
async def test_what_is_recorded_does_not_depend_on_how_it_came(provider: str) -> None:
    reply = Reply("42", reasoning="Hmm, six", tool_calls=CALLS, chunk_size=4)
    with LoopbackLLM(lambda request: reply) as server:
        client = await connect(server.url, provider)
        plain, _ = await ask(client, False)
        streamed, pieces = await ask(client, True)
    assert pieces == [ReasoningDelta("Hmm,"), ReasoningDelta(" six"), TextDelta("42")]
    assert streamed.message.text == plain.message.text == "42"
    kinds = ["Reasoning", "Text", "ToolCallPart", "ToolCallPart"]
    for whole in (plain, streamed):
        assert [type(part).__name__ for part in whole.message.parts] == kinds
    # But for the thought's signature, which has the request's number in it.
    assert streamed.message.parts[1:] == plain.message.parts[1:]
    assert streamed.message.parts[0].text == plain.message.parts[0].text  # type: ignore[union-attr]
