"""Conversation over HTTP: events, tools, records, and what goes wrong in the middle."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

import asynchistory_compat
from asynchistory import (
    DoneEvent,
    HistoryQuery,
    LLMFactory,
    LLMResponseError,
    Price,
    TextDelta,
    ToolResultEvent,
    open_history,
)
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.llm.asking import BOTH_FORMATS
from tests.llm.talking import KEY, TWO, USAGES, double, kinds, stored, talk_to, turn, weather

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

# -- the same everywhere


def scene(provider: str) -> list[Reply]:
    usage = USAGES[provider]
    return [
        Reply("Let me see.", tool_calls=TWO, usage=usage),
        Reply("Snow, and 42.", usage=usage, reasoning="Hmm."),
        Reply("You are welcome."),
    ]


OPTIONS: dict[str, Any] = {
    "prompt": "Be brief.",
    "user_id": "zoe",
    "temperature": 0.5,
    "price": lambda provider, model: Price(input=2.5, output=10),
}


def normal(records: Sequence[Any]) -> list[dict[str, Any]]:
    """Records without what differs from run to run: clocks, and ids but for what they tie."""
    names: dict[str, str] = {}
    plain = [msgspec.to_builtins(record) for record in records]
    for record in plain:
        for field in ("record_id", "timestamp"):
            assert record.pop(field)
        for field in ("duration", "response_time", "time_to_first_token"):
            if field in record:
                assert record.pop(field) >= 0
        if "request_id" in record:
            record["request_id"] = names.setdefault(record["request_id"], str(len(names)))
    return plain


def by_async(provider: str, backend: str) -> list[Any]:
    async def main() -> list[Any]:
        with LoopbackLLM(scene(provider)) as server:
            async with (
                open_history("memory://") as history,
                talk_to(
                    server, history, weather, double, provider=provider, **OPTIONS
                ) as conversation,
            ):
                events = await turn(conversation, "How is it?")
                events += await turn(conversation, "Thanks!")
                return [events, await stored(history)]

    return anyio.run(main, backend=backend)


def by_compat(provider: str) -> list[Any]:
    with (
        LoopbackLLM(scene(provider)) as server,
        asynchistory_compat.HistoryManager("memory://") as history,
    ):
        with asynchistory_compat.Conversation(
            history,
            provider=provider,
            model="m",
            session_id="chat",
            factory=LLMFactory(),
            api_key=KEY,
            base_url=server.url,
            tools=[weather, double],
            **OPTIONS,
        ) as conversation:
            events = list(conversation.send("How is it?"))
            events += list(conversation.send("Thanks!"))
        return [events, list(history.query_history(HistoryQuery("chat", limit=10_000)))]


@BOTH_FORMATS
def test_the_same_records_and_events_on_asyncio_on_trio_and_through_compat(provider: str) -> None:
    runs = [by_async(provider, "asyncio"), by_async(provider, "trio"), by_compat(provider)]
    first, *others = [normal(records) for _, records in runs]
    assert first == others[0] == others[1]
    events, records = runs[0]
    call = ["LLMRequest", "Message", "LLMResponse", "TokenUsage", "Cost"]
    tool = ["Message", "ToolCall"]
    assert [type(record).__name__ for record in records] == (
        ["Message", "Message", *call, *tool, *tool, *call, "Message", *call]
    )
    asked = ["TextDelta", "UsageEvent", "ToolCallEvent", "ToolCallEvent"]
    told = ["ToolResultEvent", "ToolResultEvent"]
    answered = ["TextDelta", "UsageEvent", "DoneEvent"]
    expected = [*asked, *told, "ReasoningDelta", *answered, *answered]
    assert [kinds(run[0]) for run in runs] == [expected] * 3
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == (
        "Let me see.Snow, and 42.You are welcome."
    )
    results = [event.result for event in events if isinstance(event, ToolResultEvent)]
    assert [result.id for result in results] == ["a", "b"]
    assert [result.result for result in results] == ["snow in Oslo", {"result": 42}]
    tool_calls = [record for record in records if type(record).__name__ == "ToolCall"]
    assert [(c.name, c.input, c.output, c.error, c.call_id) for c in tool_calls] == [
        ("weather", {"city": "Oslo"}, "snow in Oslo", None, "a"),
        ("double", {"number": 21}, {"result": 42}, None, "b"),
    ]
    requests = [record for record in records if type(record).__name__ == "LLMRequest"]
    # From the prompt to the last record before the request.
    assert [(r.from_seq, r.to_seq) for r in requests] == [(1, r.seq - 1) for r in requests]
    assert [r.parameters for r in requests] == [{"temperature": 0.5}] * 3
    usages = [record for record in records if type(record).__name__ == "TokenUsage"]
    for usage in usages[:2]:
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1000, 10, 1010)
        assert (usage.cached_tokens, usage.reasoning_tokens) == (100, 4)


# -- tools


@pytest.mark.anyio
async def test_tools_of_one_turn_run_at_the_same_time() -> None:
    first, second = anyio.Event(), anyio.Event()

    async def one() -> str:
        first.set()
        await second.wait()
        return "1"

    async def two() -> str:
        second.set()
        await first.wait()
        return "2"

    calls = [CallTool("one"), CallTool("two")]
    with LoopbackLLM([Reply(tool_calls=calls), Reply("done")]) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, one, two) as conversation,
        ):
            with anyio.fail_after(30):
                assert (await conversation.ask("Go!")).text == "done"


@pytest.mark.anyio
async def test_plain_functions_run_beside_the_loop_and_at_the_same_time() -> None:
    barrier = threading.Barrier(2)
    threads = []

    def meet() -> None:
        threads.append(threading.get_ident())
        barrier.wait(30)

    with LoopbackLLM([Reply(tool_calls=[CallTool("meet")] * 2), Reply("met")]) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, meet) as conversation,
        ):
            assert (await conversation.ask("Go!")).text == "met"
    assert len({*threads, threading.get_ident()}) == 3


async def broken() -> None:
    """Fails."""
    raise OSError("the disk is gone")


async def broken_group() -> None:
    """Fails twice."""
    raise ExceptionGroup("both", [OSError("one"), ValueError("two")])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (CallTool("broken"), "OSError: the disk is gone"),
        (CallTool("broken_group"), "ExceptionGroup"),
        (CallTool("nobody", {"a": 1}), "'nobody'"),
        (CallTool("weather", '{"city": '), "DecodeError"),
        (CallTool("weather", "[1]"), "must be a JSON object"),
        (CallTool("weather", '"Oslo"'), "must be a JSON object"),
        (CallTool("weather", {}), "city"),
        (CallTool("weather", ""), "city"),
        (CallTool("weather", {"city": 5}), "str"),
        (CallTool("weather", {"city": "Oslo", "zip": 1}), "zip"),
        (CallTool("weather", '{"city": NaN}'), ""),
        (CallTool("weather", "[" * 10_000), ""),
        (CallTool("double", '{"number": 1e999}'), ""),
        (CallTool("double", '{"number": "\\ud800"}'), ""),
    ],
)
@BOTH_FORMATS
@pytest.mark.anyio
async def test_a_tool_that_fails_is_recorded_and_told_and_the_turn_goes_on(
    call: CallTool, error: str, provider: str
) -> None:
    with LoopbackLLM([Reply(tool_calls=[call, TWO[0]]), Reply("I see."), Reply("ok")]) as server:
        async with (
            open_history("memory://") as history,
            talk_to(
                server, history, weather, double, broken, broken_group, provider=provider
            ) as conversation,
        ):
            events = await turn(conversation)
            assert isinstance(events[-1], DoneEvent)
            assert (await conversation.ask("More?")).text == "ok"
            records = [r for r in await stored(history) if r.record_type == "tool_call"]
    assert [record.error is not None for record in records] == [True, False]
    assert error in records[0].error
    results = [event.result for event in events if isinstance(event, ToolResultEvent)]
    assert [result.is_error for result in results] == [True, False]
    messages = server.requests[1].body["messages"]
    told = [message["content"] for message in messages if message["role"] == "tool"]
    if provider == "anthropic":
        told = [result["content"] for result in messages[-1]["content"]]
    assert told == [records[0].error, "snow in Oslo"]


@pytest.mark.anyio
async def test_the_model_is_asked_max_rounds_times() -> None:
    with LoopbackLLM(
        lambda request: Reply(tool_calls=[CallTool("double", {"number": 1})])
    ) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, double, max_rounds=3) as conversation,
        ):
            with pytest.raises(LLMResponseError, match="max_rounds"):
                await conversation.ask("Go!")
            assert server.count == 3
            assert sum(bool(r.record_type == "tool_call") for r in await stored(history)) == 3
            with pytest.raises(LLMResponseError, match="max_rounds"):
                await conversation.ask("Again!")
    assert server.count == 6
