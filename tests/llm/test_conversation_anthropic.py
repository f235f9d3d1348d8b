"""Conversations with Anthropic's models: windows, other providers' histories, thoughts."""

from __future__ import annotations

from typing import Any

import pytest

from asynchistory import (
    ChatRequest,
    Conversation,
    LLMRequestError,
    Message,
    Reasoning,
    open_history,
)
from asynchistory.testing import LoopbackLLM, Reply
from tests.llm.asking import connect
from tests.llm.talking import TWO, double, stored, talk_to, turn, weather

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

TURN = [
    Reply("Let me see.", tool_calls=[TWO[0]], reasoning="The weather."),
    Reply(tool_calls=[TWO[1]], reasoning="And twice that."),
    Reply("Snow, and 42."),
]


def fresh(turns: int) -> list[Reply]:
    """Some turns with tools, whose calls have ids that the server makes."""
    return [
        Reply(
            reply.text,
            tool_calls=[type(call)(call.name, call.arguments) for call in reply.tool_calls],
            reasoning=reply.reasoning,
        )
        for reply in TURN * turns
    ]


async def talk(conversation: Conversation, turns: int) -> None:
    for number in range(turns):
        await turn(conversation, f"How is it, the {number + 1}. time?")


@pytest.mark.anyio
async def test_each_window_is_one_that_the_api_takes() -> None:
    # Whatever is refused raises here: the server looks at calls, results and thoughts.
    with LoopbackLLM([*fresh(3), *[Reply("ok")] * 100]) as server:
        async with (
            open_history("memory://") as history,
            talk_to(
                server, history, weather, double, provider="anthropic", prompt="Be brief."
            ) as conversation,
        ):
            await talk(conversation, 3)
            messages = [r for r in await stored(history) if isinstance(r, Message)]
            client = await connect(server.url, "anthropic")
            sizes = set()
            for last in range(2, len(messages) + 1):
                window = await history.window("chat", last=last, from_user=True)
                asked = tuple(r for r in window.records if isinstance(r, Message))
                if any(message.role == "user" for message in asked):
                    await client.complete(ChatRequest(messages=asked))
                    sizes.add(len(asked))
            assert sizes == {7, 13, 19}  # with the prompt; a turn has six messages
            whole = await client.complete(ChatRequest(messages=tuple(messages)))
            assert whole.message.text == "ok"
            with pytest.raises(LLMRequestError):  # and it does look
                await client.complete(ChatRequest(messages=tuple(messages[2:])))


@pytest.mark.anyio
async def test_thoughts_go_back_with_the_calls_that_they_led_to() -> None:
    with LoopbackLLM(TURN) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, weather, double, provider="anthropic") as conversation,
        ):
            await turn(conversation)
            messages = [r for r in await stored(history) if isinstance(r, Message)]
    thoughts = [part for m in messages for part in m.parts if isinstance(part, Reasoning)]
    assert [(part.text, part.signature) for part in thoughts] == [
        ("The weather.", "sig_1"),
        ("And twice that.", "sig_2"),
    ]
    *_, second, _ = server.requests[2].body["messages"]
    assert [block["type"] for block in second["content"]] == ["thinking", "tool_use"]
    assert second["content"][0]["signature"] == "sig_2"


@pytest.mark.parametrize(
    "providers", [("openai", "anthropic"), ("anthropic", "openai")], ids=" then ".join
)
@pytest.mark.anyio
async def test_a_conversation_goes_on_with_another_provider(providers: tuple[str, str]) -> None:
    with LoopbackLLM(fresh(2)) as server:
        async with open_history("memory://") as history:
            for provider in providers:
                async with talk_to(
                    server, history, weather, double, provider=provider, prompt="Be brief."
                ) as conversation:
                    await talk(conversation, 1)
            records: list[Any] = await stored(history)
    assert server.count == 6
    answers = [r for r in records if isinstance(r, Message) and r.role == "assistant"]
    assert [answer.text for answer in answers] == ["Let me see.", "", "Snow, and 42."] * 2
    body = server.requests[-1].body
    prompt = body.get("system") or body["messages"][0]["content"]
    assert prompt == "Be brief."
