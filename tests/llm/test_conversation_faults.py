"""What goes wrong in the middle of a turn: the history can be gone on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asynchistory import (
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMOverloadedError,
    LLMQuotaError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
    Message,
    TextDelta,
    ToolCallEvent,
    ToolResultEvent,
    UsageEvent,
    open_history,
    register_provider,
)
from asynchistory.llm.openai import OpenAIClient
from asynchistory.testing import CallTool, Fault, Gate, LoopbackLLM, Reply
from tests.llm.asking import BOTH_FORMATS
from tests.llm.talking import KEY, TWO, double, stored, talk_to, turn, weather

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

HALF = Reply("Half of it", tool_calls=TWO, chunk_size=4)
FAULTS: dict[str, tuple[Callable[[], Fault], type[LLMError]]] = {
    "401": (Fault.unauthorized, LLMAuthenticationError),
    "404": (lambda: Fault.status(404), LLMRequestError),
    "429": (Fault.rate_limited, LLMRateLimitError),
    "quota": (Fault.quota_exhausted, LLMQuotaError),
    "500": (Fault.server_error, LLMServerError),
    "529": (Fault.overloaded, LLMOverloadedError),
    "malformed": (lambda: Fault.malformed(after=5, reply=HALF), LLMResponseError),
    "cut": (lambda: Fault.cut(after=7, reply=HALF), LLMResponseError),
    "error event": (lambda: Fault.error_event(after=6, reply=HALF), LLMServerError),
    "hang up": (Fault.hang_up, LLMConnectionError),
}


@BOTH_FORMATS
@pytest.mark.parametrize("before", [0, 1], ids=["first call", "after the tools"])
@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.anyio
async def test_a_fault_in_the_middle_leaves_a_history_to_go_on_from(
    name: str, before: int, provider: str
) -> None:
    fault, expected = FAULTS[name]
    script = [*[Reply(tool_calls=TWO)] * before, fault(), Reply("fine")]
    with LoopbackLLM(script) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, weather, double, options={"max_retries": 0}) as conversation,
        ):
            with pytest.raises(LLMError) as caught:
                await turn(conversation)
            assert type(caught.value) is expected
            assert (await conversation.ask("And now?")).text == "fine"
            records = await stored(history)
    responses = [r for r in records if r.record_type == "llm_response"]
    assert [r.finish_reason for r in responses][before:] == ["error", "stop"]
    assert KEY not in repr(records)
    assert server.requests[-1].body["messages"][-1] == {"role": "user", "content": "And now?"}


@pytest.mark.anyio
async def test_what_the_caller_raises_in_the_block_comes_out_as_it_is() -> None:
    gate = Gate()
    with LoopbackLLM([Reply("Never heard", gate=gate, gate_after=2), Reply("fine")]) as server:
        async with open_history("memory://") as history, talk_to(server, history) as conversation:
            mine = ValueError("mine")
            with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
                async with conversation.send("Hi!") as events:
                    async for _ in events:
                        raise mine
            assert caught.value is mine
            assert (await conversation.ask("More?")).text == "fine"


@pytest.mark.parametrize("until", [TextDelta, UsageEvent, ToolCallEvent, ToolResultEvent])
@pytest.mark.anyio
async def test_leaving_early_cancels_the_turn_and_the_next_one_works(until: type[Any]) -> None:
    ended = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    calls = [TWO[0], CallTool("slow")]
    with LoopbackLLM([Reply("A" * 500, tool_calls=calls), Reply("fine")]) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, weather, slow) as conversation,
        ):
            with anyio.fail_after(30):
                async with conversation.send("Hi!") as events:
                    async for event in events:
                        if isinstance(event, until):
                            break
                assert (await conversation.ask("More?")).text == "fine"
            messages = [r for r in await stored(history) if isinstance(r, Message)]
    calls_made = [call.id for message in messages for call in message.tool_calls]
    results = [result.id for message in messages for result in message.tool_results]
    assert sorted(calls_made) == sorted(results)
    assert len(ended) == (until is ToolResultEvent) or until is ToolCallEvent


@pytest.mark.parametrize("before", [0, 1], ids=["first call", "after the tools"])
@pytest.mark.anyio
async def test_a_server_that_hangs_in_the_middle(before: int) -> None:
    register_provider(
        "impatient",
        lambda config: OpenAIClient(config.key, api_key=config.api_key, timeout=2.0),
    )
    tools = [Reply(tool_calls=TWO)] * before
    with LoopbackLLM([*tools, Fault.hang(), Reply("fine")]) as server:
        async with open_history("memory://") as history:
            async with talk_to(
                server, history, weather, double, provider="impatient"
            ) as conversation:
                with anyio.fail_after(30), pytest.raises(LLMTimeoutError):
                    await turn(conversation)
            # As another process would go on, with more patience.
            async with talk_to(server, history, weather, double) as conversation:
                assert (await conversation.ask("And now?")).text == "fine"
            responses = [r for r in await stored(history) if r.record_type == "llm_response"]
    assert [r.finish_reason for r in responses][before:] == ["error", "stop"]
