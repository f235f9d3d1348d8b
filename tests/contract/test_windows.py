"""Windows: as much of a session as fits, in a form that providers take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    Blob,
    HistoryPage,
    HistoryQuery,
    InvalidQueryError,
    Message,
    SessionNotFoundError,
    Storage,
    TailCache,
    ToolCallPart,
    ToolResultPart,
    Window,
    estimate_tokens,
)
from asynchistory.formats import conversation_to_openai
from asynchistory.manager import windows
from asynchistory.pairing import pair_tools
from tests.contract.calling import call, result
from tests.contract.chats import LEVELS, fill, say, usage

pytestmark = pytest.mark.anyio


def prompt(text: str = "Be brief.", role: str = "system") -> Message:
    return Message.of(role, text)


def seqs(window: Window) -> list[int]:
    return [message.seq for message in window.records]


class Reads:
    """Counts what a manager reads of its store."""

    def __init__(self, history: AsyncHistoryManager, patch: pytest.MonkeyPatch) -> None:
        self.queries: list[HistoryQuery] = []
        self.records = 0
        read = history.storage.read

        async def counted(query: HistoryQuery) -> HistoryPage:
            page = await read(query)
            self.queries.append(query)
            self.records += len(page)
            return page

        patch.setattr(history.storage, "read", counted)


# -- what is in it


async def test_the_newest_messages_oldest_first(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    window = await history.window("chat", last=3)

    assert isinstance(window, Window)
    assert seqs(window) == [3, 4, 5]
    assert [message.text for message in window] == ["3", "4", "5"]
    assert (len(window), window.complete, window.left_out) == (3, False, ())
    session = await history.get_session("chat")
    assert (window.session_id, window.epoch, window.seq) == ("chat", session.epoch, 5)
    assert (window.first_seq, window.last_seq) == (3, 5)


@pytest.mark.parametrize("last", [5, 6, 10_000])
async def test_all_that_there_is(history: AsyncHistoryManager, last: int) -> None:
    await fill(history, "chat", 5)

    window = await history.window("chat", last=last)

    assert seqs(window) == [1, 2, 3, 4, 5]
    assert window.complete


async def test_an_empty_session(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")

    window = await history.window("chat", max_tokens=1)

    assert (window.records, window.estimated_tokens, window.complete) == ((), 0, True)
    assert (window.first_seq, window.last_seq, window.seq) == (0, 0, 0)


async def test_only_messages(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), usage("r1", 3), say("3"), usage("r2", 3))

    window = await history.window("chat", last=2)

    assert seqs(window) == [1, 3]
    assert (window.seq, window.last_seq) == (4, 3)


async def test_tokens_are_counted_as_the_caller_does(history: AsyncHistoryManager) -> None:
    await history.append("chat", *map(say, ["aaaa", "bbb", "cc", "d"]))
    asked: list[int] = []

    def count(message: Message) -> int:
        asked.append(message.seq)
        return len(message.text)

    window = await history.window("chat", max_tokens=6, count_tokens=count)

    assert seqs(window) == [2, 3, 4]
    assert window.estimated_tokens == 6
    assert sorted(asked) == [1, 2, 3, 4], "each message is counted once"
    assert seqs(await history.window("chat", max_tokens=5, count_tokens=count)) == [3, 4]
    by_number = await history.window("chat", last=2, count_tokens=count)
    assert (seqs(by_number), by_number.estimated_tokens) == ([3, 4], 3)


async def test_tokens_are_estimated_if_nobody_counts(history: AsyncHistoryManager) -> None:
    picture = Message(role="user", parts=(Blob(data=bytes(500_000), mime_type="image/png"),))
    await history.append("chat", say("word " * 400), picture, say("Well?"))

    window = await history.window("chat", max_tokens=1200)

    assert seqs(window) == [2, 3]
    assert window.estimated_tokens == sum(map(estimate_tokens, window.records)) < 1200


async def test_a_call_is_never_without_its_result(history: AsyncHistoryManager) -> None:
    await history.append(
        "chat", say("1"), call("a", "b"), result("a"), result("b"), say("5"), call("a"), result("a")
    )

    found = {last: seqs(await history.window("chat", last=last)) for last in range(1, 8)}

    assert found == {
        1: [], 2: [6, 7], 3: [5, 6, 7], 4: [5, 6, 7], 5: [5, 6, 7], 6: [2, 3, 4, 5, 6, 7],
        7: [1, 2, 3, 4, 5, 6, 7],
    }  # fmt: skip


async def test_a_group_in_progress_is_left_out(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), call("a", "b"), result("a"))

    window = await history.window("chat", last=3)

    assert (seqs(window), window.left_out, window.complete) == ([1], (2, 3), True)

    await history.append("chat", result("b"))
    assert seqs(await history.window("chat", last=4)) == [1, 2, 3, 4]


async def test_orphans_are_left_out(history: AsyncHistoryManager) -> None:
    await history.append("chat", call("a"), result("a"), result("a"), say("4"))

    window = await history.window("chat", last=3)

    assert (seqs(window), window.left_out) == ([1, 2, 4], (3,))


async def test_a_result_that_came_late_stands_behind_its_call(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", call("a"), say("Are you there?"), result("a"), say("4"))

    window = await history.window("chat", last=4)

    assert seqs(window) == [1, 3, 2, 4]
    assert (window.first_seq, window.last_seq) == (1, 4)
    roles = [message["role"] for message in conversation_to_openai(window)]
    assert roles == ["assistant", "tool", "user", "user"]


async def test_beginning_with_a_user_s_message(history: AsyncHistoryManager) -> None:
    answer = Message.of("assistant", "yes")
    await history.append("chat", prompt(), say("2"), answer, say("4"), answer)

    assert seqs(await history.window("chat", last=4)) == [1, 3, 4, 5]
    assert seqs(await history.window("chat", last=4, from_user=True)) == [1, 4, 5]
    assert seqs(await history.window("chat", last=5, from_user=True)) == [1, 2, 3, 4, 5]


# -- the prompt


@pytest.mark.parametrize("length", [4, 400])
async def test_the_prompt_stays_and_counts(history: AsyncHistoryManager, length: int) -> None:
    texts = [say(str(number)) for number in range(4, length + 4)]
    await history.append("chat", prompt(), prompt(role="developer"), say("3"), *texts)
    newest = length + 3

    window = await history.window("chat", last=4)

    assert seqs(window) == [1, 2, newest - 1, newest]
    assert (window.first_seq, window.last_seq) == (newest - 1, newest)
    without = await history.window("chat", last=4, keep_system=False)
    assert seqs(without) == list(range(newest - 3, newest + 1))


async def test_only_the_beginning_is_the_prompt(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), prompt(), say("3"))

    assert seqs(await history.window("chat", last=1)) == [3]


async def test_a_window_that_reaches_the_prompt_has_it_once(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two prompts, the tail begins between them.
    history.cache.depth = 3
    await history.append("chat", prompt(), prompt(), say("3"), say("4"))

    assert seqs(await history.window("chat", last=4)) == [1, 2, 3, 4]
    assert (await history.window("chat", last=4)).complete
    assert seqs(await history.window("chat", last=3)) == [1, 2, 4]
    assert not (await history.window("chat", last=3)).complete


async def test_a_prompt_that_is_too_large_leaves_nothing(history: AsyncHistoryManager) -> None:
    await history.append("chat", prompt("x" * 400), say("2"))

    window = await history.window("chat", max_tokens=50)

    assert (window.records, window.complete) == ((), False)
    assert seqs(await history.window("chat", max_tokens=50, keep_system=False)) == [2]


async def test_a_session_of_prompts(history: AsyncHistoryManager) -> None:
    await history.append("chat", *[prompt(str(number)) for number in range(25)])
    history.cache.depth = 3

    assert seqs(await history.window("chat", last=30)) == list(range(1, 26))


# -- arguments


@pytest.mark.parametrize(
    "options",
    [
        {}, {"last": 1, "max_tokens": 1}, {"last": 0}, {"last": -1}, {"last": 10_001},
        {"last": True}, {"last": 1.0}, {"last": "1"}, {"max_tokens": 0}, {"max_tokens": 2**60},
        {"last": 1, "level": "new"},
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_for(
    history: AsyncHistoryManager, options: dict[str, Any]
) -> None:
    await fill(history, "chat", 1)

    with pytest.raises(InvalidQueryError):
        await history.window("chat", **options)


async def test_a_session_that_is_missing(history: AsyncHistoryManager) -> None:
    for level in LEVELS:
        with pytest.raises(SessionNotFoundError):
            await history.window("none", last=1, level=level)
    with pytest.raises(SessionNotFoundError):
        await history.pending_tool_calls("none")
    with pytest.raises(SessionNotFoundError):
        await history.repair("none")


# -- what is read


async def test_the_tail_is_enough_where_it_is(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = AsyncHistoryManager(storage, TailCache(depth=50))
    await fill(history, "chat", 500)
    reads = Reads(history, monkeypatch)

    for _ in range(3):
        assert len(await history.window("chat", last=20, keep_system=False)) == 20
    assert (reads.queries, history.get_cache_stats().loads) == ([], 1)

    await history.window("chat", last=20)
    assert reads.records <= 10, "the prompt alone is looked for"


async def test_it_goes_back_only_as_far_as_it_must(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = AsyncHistoryManager(storage, TailCache(depth=50))
    await fill(history, "chat", 3000)
    reads = Reads(history, monkeypatch)

    window = await history.window(
        "chat", max_tokens=250, count_tokens=lambda _: 1, keep_system=False
    )

    assert seqs(window) == list(range(2751, 3001))
    assert 200 <= reads.records <= 300
    assert {query.record_types for query in reads.queries} == {("message",)}


async def test_a_call_before_the_tail_is_found(storage: Storage) -> None:
    history = AsyncHistoryManager(storage, TailCache(depth=3))
    await history.append("chat", say("1"), call("a"), *[usage(f"r{n}", 1) for n in range(5)])
    await history.append("chat", result("a"), say("9"))

    assert seqs(await history.window("chat", last=3)) == [2, 8, 9]
    assert seqs(await history.window("chat", last=2)) == [9]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_session_that_is_rewritten_meanwhile_is_read_again(
    storage: Storage, level: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = AsyncHistoryManager(storage, TailCache(depth=2), level=level)
    other = AsyncHistoryManager(storage, TailCache())
    await fill(history, "chat", 9)
    await history.last("chat")
    read = storage.read
    rewritten = []

    async def late(query: HistoryQuery) -> HistoryPage:
        if not rewritten:
            rewritten.append(await other.replace("chat", *map(say, "abcdefg")))
        return await read(query)

    monkeypatch.setattr(storage, "read", late)

    window = await history.window("chat", last=5)

    assert [message.text for message in window] == list("cdefg")
    assert window.epoch == rewritten[0].epoch


# -- any conversation

PARTS = st.builds(
    lambda is_call, name: ToolCallPart(id=name, name="f") if is_call else ToolResultPart(id=name),
    st.booleans(),
    st.sampled_from("ab"),
)
RECORDS = st.one_of(
    st.builds(lambda role: Message.of(role, "text"), st.sampled_from(["user", "system"])),
    st.builds(
        lambda parts: Message(role="assistant", parts=tuple(parts)),
        st.lists(PARTS, min_size=1, max_size=3),
    ),
    st.just(usage("r", 1)),
)


def allowed(stored: Sequence[Message], window: Window, last: int) -> None:
    """What every window keeps to; that it is the longest is a test of ``choose``."""
    assert len(window) <= last
    pairs = pair_tools(window.records)
    assert not pairs.unanswered
    assert not pairs.orphans
    # Nothing is passed over but what is named, and the prompt is the session's.
    covered = {message.seq for message in window} | set(window.left_out)
    body = [message.seq for message in stored if message.seq >= window.first_seq > 0]
    assert set(body) <= covered
    beginning = sorted(message.seq for message in window if message.seq < window.first_seq)
    assert beginning == [message.seq for message in stored[: len(beginning)]]


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(records=st.lists(RECORDS, min_size=1, max_size=20), last=st.integers(1, 20))
async def test_windows_of_any_conversation(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, records: list[AnyRecord], last: int
) -> None:
    monkeypatch.setattr(windows, "_PAGE", 2)
    monkeypatch.setattr(windows, "_PROMPT_PAGE", 1)
    name = uuid4().hex
    whole = AsyncHistoryManager(storage, TailCache())
    pieces = AsyncHistoryManager(storage, TailCache(depth=1))
    await whole.append(name, *records)
    stored = [record for record in await whole.last(name, 100) if isinstance(record, Message)]

    for options in ({}, {"keep_system": False}, {"from_user": True}):
        wanted = await whole.window(name, last=last, **options)
        allowed(stored, wanted, last)
        # However little is cached and read at a time, it is the same.
        pieces.cache.clear()
        assert await pieces.window(name, max_tokens=last, count_tokens=lambda _: 1, **options) == (
            await whole.window(name, max_tokens=last, count_tokens=lambda _: 1, **options)
        )
        pieces.cache.clear()
        assert seqs(await pieces.window(name, last=last, **options)) == seqs(wanted)
