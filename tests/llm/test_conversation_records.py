"""What a conversation records: the prompt, costs, and what adds up to statistics."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import anyio
import msgspec
import pytest

from asynchistory import (
    LLMFactory,
    Price,
    UsageEvent,
    open_history,
)
from asynchistory.testing import LoopbackLLM, Reply
from tests.llm.talking import TWO, USAGE, double, stored, talk_to, turn, weather

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")


@pytest.mark.anyio
async def test_the_prompt_is_recorded_once_and_a_session_is_resumed() -> None:
    factory = LLMFactory()
    with LoopbackLLM() as server:
        async with open_history("memory://") as history:
            for text in ("one", "two"):
                async with talk_to(
                    server, history, prompt="Be brief.", factory=factory
                ) as conversation:
                    assert (await conversation.ask(text)).text == f"You said: {text}"
    sent = [(m["role"], m["content"]) for m in server.requests[1].body["messages"]]
    assert sent == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "You said: one"),
        ("user", "two"),
    ]


@pytest.mark.anyio
async def test_two_who_open_a_new_session_at_once_record_one_prompt(tmp_path: Any) -> None:
    factory = LLMFactory()

    async def enter() -> None:
        async with talk_to(server, history, prompt="Be brief.", factory=factory):
            pass

    with LoopbackLLM() as server:
        async with open_history(tmp_path / "history.db") as history:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(enter)
            assert len(await stored(history)) == 1


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (USAGE, ("0.00015", "0.000006", "0.000156")),
        ({"prompt_tokens": 3, "completion_tokens": 7}, ("0.00000045", "0.0000042", "0.00000465")),
        ({"prompt_tokens": 3}, None),
        ({}, None),
    ],
)
@pytest.mark.anyio
async def test_a_cost_where_price_and_tokens_are_known(usage: Any, cost: Any) -> None:
    with LoopbackLLM(Reply("ok", usage=usage)) as server:
        async with (
            open_history("memory://") as history,
            talk_to(
                server, history, price=lambda *_: Price(input=0.15, output=0.6)
            ) as conversation,
        ):
            events = await turn(conversation)
            costs = [r for r in await stored(history) if r.record_type == "cost"]
            statistics = await history.get_cost_statistics("chat")
    assert [(c.input_cost, c.output_cost, c.total_cost) for c in costs] == (
        [] if cost is None else [tuple(map(Decimal, cost))]
    )
    assert [event.cost for event in events if isinstance(event, UsageEvent) and event.cost] == [
        msgspec.structs.replace(c, seq=0, session_id="", record_id="", timestamp=None)
        for c in costs
    ]
    assert statistics.calls == len(costs)


@pytest.mark.anyio
async def test_statistics_are_the_sums_of_the_server_s_own_figures(tmp_path: Any) -> None:
    usages = [
        {"prompt_tokens": n * 100, "completion_tokens": n, "total_tokens": n * 101}
        for n in range(1, 7)
    ]
    script = [
        Reply("ok", usage=usage, tool_calls=TWO if number % 2 == 0 else ())
        for number, usage in enumerate(usages)
    ]
    with LoopbackLLM(script) as server:
        async with (
            open_history(tmp_path / "history.db") as history,
            talk_to(server, history, weather, double) as conversation,
        ):
            for _ in range(3):
                await conversation.ask("Go on.")
            tokens = await history.get_token_statistics("chat")
            llm = await history.get_llm_statistics("chat")
    assert (tokens.calls, tokens.unknown_calls) == (6, 0) == (server.count, 0)
    assert tokens.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert tokens.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert tokens.total_tokens == sum(usage["total_tokens"] for usage in usages)
    assert (llm.requests, llm.responses) == (6, 6)
