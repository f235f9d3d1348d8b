"""A conversation over a session that no provider would take as it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from asynchistory import (
    Conversation,
    LLMFactory,
    Message,
    ScriptedClient,
    open_history,
    register_provider,
)
from asynchistory.pairing import pair_tools
from tests.contract.calling import call, result

pytestmark = pytest.mark.anyio

SAID = Message.of("user", "Are you there?")


@pytest.mark.parametrize(
    ("before", "sent"),
    [
        ([call("a")], ["assistant", "tool", "user"]),
        # What was said behind an open call: its result is sent in front of that.
        ([call("a"), SAID], ["assistant", "tool", "user", "user"]),
        ([call("a", "b"), result("b"), SAID], ["assistant", "tool", "tool", "user", "user"]),
        # Nothing that is appended mends a result without a call: it is not sent.
        ([SAID, result("x")], ["user", "user"]),
    ],
)
async def test_what_is_sent_is_fit(before: list[Message], sent: list[str]) -> None:
    requests: list[Sequence[Message]] = []

    def answer(messages: Sequence[Message]) -> str:
        requests.append(messages)
        return "yes"

    register_provider("mending", lambda config: ScriptedClient(config.key, answer))
    async with open_history("memory://") as history:
        await history.append("chat", *before)
        async with Conversation(
            history, provider="mending", model="m", session_id="chat", factory=LLMFactory()
        ) as conversation:
            assert (await conversation.ask("Go on.")).text == "yes"
        assert await history.pending_tool_calls("chat") == ()

    [messages] = requests
    assert [message.role for message in messages] == sent
    pairs = pair_tools(messages)
    assert not pairs.unanswered
    assert not pairs.orphans
