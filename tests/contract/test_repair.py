"""Tool calls without a result: found, and given one that says that they were interrupted."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from asynchistory import (
    Appended,
    AsyncHistoryManager,
    Batch,
    InvalidInputError,
    Message,
    OrphanToolResult,
    PendingToolCall,
    Repaired,
    SequenceConflictError,
    Storage,
    TailCache,
    ToolCallPart,
    ToolResultPart,
)
from asynchistory.formats import conversation_to_openai
from asynchistory.manager import repairing
from asynchistory.pairing import pair_tools
from tests.contract.calling import call, result
from tests.contract.chats import LEVELS, read_all, say, usage

pytestmark = pytest.mark.anyio


def pending(seq: int, call_id: str, part: int = 0) -> PendingToolCall:
    return PendingToolCall(seq=seq, part=part, id=call_id, name="f")


async def test_pending_calls_in_order(history: AsyncHistoryManager) -> None:
    asking = Message(
        role="assistant",
        parts=(
            ToolCallPart(id="a", name="search", arguments='{"q": 1}'),
            ToolCallPart(id="b", name="f"),
        ),
    )
    await history.append("chat", say("1"), asking, usage("r", 1), result("b"), call("b", "a"))

    assert await history.pending_tool_calls("chat") == (
        PendingToolCall(seq=2, part=0, id="a", name="search", arguments='{"q": 1}'),
        pending(5, "b"),
        pending(5, "a", part=1),
    )

    # An id that is used again: the answer is that of the nearest call.
    await history.append("chat", result("a"))
    assert [call.seq for call in await history.pending_tool_calls("chat")] == [2, 5]


async def test_nothing_is_pending(history: AsyncHistoryManager) -> None:
    await history.create_session("empty")
    await history.append("chat", call("a"), result("a"))

    assert await history.pending_tool_calls("empty") == ()
    assert await history.pending_tool_calls("chat") == ()


async def test_pending_calls_of_a_long_session(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "_PAGE", 3)
    records = [call("a"), call("b")] + [say("x")] * 20 + [result("b")]
    await history.append("chat", *records)

    assert await history.pending_tool_calls("chat") == (pending(1, "a"),)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_repair_sees_what_others_have_written(storage: Storage, level: Any) -> None:
    history = AsyncHistoryManager(storage, TailCache(), level=level)
    other = AsyncHistoryManager(storage, TailCache())
    await other.append("chat", call("a"))
    await history.last("chat")
    await other.append("chat", result("a"), call("b"))

    assert await history.pending_tool_calls("chat") == (pending(3, "b"),)
    assert (await history.repair("chat")).answered == (pending(3, "b"),)


# -- repair


async def test_a_session_that_was_cut_short_is_repaired(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), call("a", "b"), result("a"))

    repaired = await history.repair("chat")

    assert repaired.answered == (pending(2, "b", part=1),)
    assert (repaired.pending, repaired.orphans) == ((), ())
    assert repaired.appended is not None
    assert (repaired.appended.first_seq, repaired.appended.last_seq) == (4, 4)
    records = await read_all(history, "chat")
    [part] = records[3].parts
    assert (records[3].role, part) == (
        "tool",
        ToolResultPart(id="b", name="f", result="interrupted before its end", is_error=True),
    )
    window = await history.window("chat", last=4)
    assert [message.seq for message in window] == [1, 2, 3, 4]
    assert await history.pending_tool_calls("chat") == ()


async def test_a_second_repair_changes_nothing(history: AsyncHistoryManager) -> None:
    await history.append("chat", call("a", "a"), call("a"))
    assert len((await history.repair("chat")).answered) == 3
    before = await read_all(history, "chat")

    assert await history.repair("chat") == Repaired()
    assert await read_all(history, "chat") == before


async def test_the_reason_is_the_caller_s(history: AsyncHistoryManager) -> None:
    await history.append("chat", call("a"))

    await history.repair("chat", reason="the user has cancelled")

    [record] = await history.last("chat", 1)
    assert record.parts[0].result == "the user has cancelled"
    with pytest.raises(InvalidInputError):
        await history.repair("chat", reason=None)


@pytest.mark.parametrize(
    ("behind", "left"),
    [
        ([], ["a", "b"]),
        ([result("a")], ["b"]),
        ([usage("r", 1)], ["a", "b"]),
        ([result("a"), say("hello?")], []),
        ([Message.of("assistant", "so")], []),
        ([say("hello?"), call("c")], ["c"]),
    ],
)
async def test_what_may_be_in_progress_can_be_left(
    history: AsyncHistoryManager, behind: list[Message], left: list[str]
) -> None:
    await history.append("chat", say("1"), call("old"), say("3"), call("a", "b"), *behind)

    repaired = await history.repair("chat", in_progress=True)

    assert [call.id for call in repaired.pending] == left
    assert repaired.answered[0] == pending(2, "old")
    assert await history.pending_tool_calls("chat") == repaired.pending


async def test_orphans_are_reported(history: AsyncHistoryManager) -> None:
    twice = Message(role="tool", parts=(ToolResultPart(id="a"), ToolResultPart(id="x", name="f")))
    await history.append("chat", call("a"), twice)

    repaired = await history.repair("chat")

    assert repaired == Repaired(orphans=(OrphanToolResult(seq=2, part=1, id="x", name="f"),))
    assert (await history.window("chat", last=9)).left_out == (1, 2)


def refused_by_openai(messages: list[dict[str, Any]]) -> bool:
    """The rule of its API: each call is answered at once, and nothing else is an answer."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return True
            waiting.remove(message["tool_call_id"])
        elif waiting:
            return True
        waiting += [call["id"] for call in message.get("tool_calls", ())]
    return bool(waiting)


async def test_a_repaired_session_is_taken_wherever_it_was_cut(
    history: AsyncHistoryManager,
) -> None:
    turn = [say("1"), call("a", "b"), result("a"), result("b"), Message.of("assistant", "so")]
    for cut in range(1, len(turn) + 1):
        for back in (turn, [say("again")], []):
            session = f"chat-{cut}-{len(back)}"
            await history.append(session, *turn[:cut], *back)

            await history.repair(session)

            window = await history.window(session, last=100)
            assert len(window) == cut + len(back) + max(0, (0, 0, 2, 1)[cut] if cut < 4 else 0)
            assert not window.left_out
            assert not refused_by_openai(conversation_to_openai(window))


# -- with others at work


class Meddling:
    """Appends something of another's right before so many appends."""

    def __init__(self, storage: Storage, patch: pytest.MonkeyPatch, times: int) -> None:
        self.times = times
        self.attempts = 0
        self.meddling = False
        self.append = storage.append
        self.other = AsyncHistoryManager(storage, TailCache())
        patch.setattr(storage, "append", self)

    async def __call__(self, batch: Batch) -> Appended:
        if not self.meddling:
            self.attempts += 1
            if self.attempts <= self.times:
                self.meddling = True
                await self.other.append("chat", result("a") if self.attempts == 1 else say("x"))
                self.meddling = False
        return await self.append(batch)


async def test_a_result_that_arrives_meanwhile_counts(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.append("chat", call("a", "b"))
    meddling = Meddling(history.storage, monkeypatch, 1)

    repaired = await history.repair("chat")

    assert [call.id for call in repaired.answered] == ["b"]
    assert meddling.attempts == 2
    pairs = pair_tools(await read_all(history, "chat"))
    assert (len(pairs.pairs), pairs.unanswered, pairs.orphans) == (2, (), ())


async def test_it_does_not_try_for_ever(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.append("chat", call("a", "b"))
    meddling = Meddling(history.storage, monkeypatch, 1000)

    with pytest.raises(SequenceConflictError):
        await history.repair("chat")

    assert meddling.attempts == 10
    pairs = pair_tools(await read_all(history, "chat"))
    assert (len(pairs.pairs), pairs.orphans) == (1, ())


async def test_many_repair_at_once(history: AsyncHistoryManager) -> None:
    await history.append("chat", call("a", "b"))
    answered = []

    async def repair() -> None:
        answered.extend((await history.repair("chat")).answered)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(repair)

    assert [call.id for call in answered] == ["a", "b"]
    pairs = pair_tools(await read_all(history, "chat"))
    assert (len(pairs.pairs), pairs.unanswered, pairs.orphans) == (2, (), ())
