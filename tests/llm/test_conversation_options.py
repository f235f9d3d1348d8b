"""What a conversation hands on to its model."""

from __future__ import annotations

import pytest

from asynchistory import Conversation, LLMFactory, LLMTimeoutError, open_history
from asynchistory.testing import Fault, LoopbackLLM, Reply


@pytest.mark.anyio
async def test_options_reach_each_request_and_make_another_instance() -> None:
    factory = LLMFactory()
    with LoopbackLLM(lambda request: Reply(f"seed {request['seed']}")) as server:
        async with open_history("memory://") as history:
            for seed in (1, 2):
                async with Conversation(
                    history,
                    factory=factory,
                    provider="openai",
                    model="m",
                    base_url=server.url,
                    options={"seed": seed},
                ) as conversation:
                    assert (await conversation.ask("Hi!")).text == f"seed {seed}"
    assert factory.get_cache_stats().creations == 2


@pytest.mark.anyio
async def test_a_server_that_hangs_is_not_waited_for_longer_than_the_timeout() -> None:
    with LoopbackLLM([Fault.hang(), Reply("Here I am.")]) as server:
        async with (
            open_history("memory://") as history,
            Conversation(
                history,
                factory=LLMFactory(),
                provider="openai",
                model="m",
                base_url=server.url,
                timeout=2.0,
            ) as conversation,
        ):
            with pytest.raises(LLMTimeoutError, match="longer timeout"):
                await conversation.ask("Hello?")
            assert (await conversation.ask("Are you there?")).text == "Here I am."
