"""Replace: other records in the place of all that a session has."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from asynchistory import (
    Appended,
    AsyncHistoryManager,
    HistoryQuery,
    IdempotencyMismatchError,
    InvalidRecordError,
    Message,
    SequenceConflictError,
    SessionNotFoundError,
    Storage,
)
from tests.contract.chats import (
    add,
    assert_current,
    assert_rewritten,
    cached,
    fill,
    numbers,
    say,
    texts,
    warm,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [1, 3, 5, 8])
async def test_the_new_records_stand_in_the_place_of_the_old(
    history: AsyncHistoryManager, count: int
) -> None:
    await fill(history, "chat", 5)
    await fill(history, "other", 2)
    new = [f"new {number}" for number in range(count)]

    appended = await history.replace("chat", *map(say, new))

    assert (appended.session_id, appended.first_seq, appended.last_seq) == ("chat", 1, count)
    assert not appended.replayed
    session = await history.get_session("chat")
    assert (session.seq, session.epoch) == (count, appended.epoch)
    assert await texts(history, "chat") == new
    assert await texts(history, "other") == numbers(2)


async def test_replace_by_nothing_empties_a_session(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5, user_id="ann")

    await history.replace("chat")

    session = await history.get_session("chat")
    assert (session.seq, session.user_id) == (0, "ann")
    assert await texts(history, "chat") == []
    assert (await history.append("chat", say("new"))).first_seq == 1


@pytest.mark.parametrize("new", [[], ["1", "2"]])
async def test_a_missing_session_is_created(history: AsyncHistoryManager, new: list[str]) -> None:
    appended = await history.replace("chat", *map(say, new), expected_seq=0)

    session = await history.get_session("chat")
    assert (session.seq, session.epoch, session.user_id) == (len(new), appended.epoch, None)
    assert await texts(history, "chat") == new


async def test_a_replace_begins_a_new_epoch(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    await assert_rewritten(history, "chat", lambda: history.replace("chat", *map(say, numbers(5))))


async def test_even_an_empty_session_begins_a_new_epoch(history: AsyncHistoryManager) -> None:
    made = await history.create_session("chat")

    assert (await history.replace("chat")).epoch > made.epoch


async def test_what_was_replaced_is_found_nowhere(history: AsyncHistoryManager) -> None:
    await add(history, "chat", "needle", "needle")

    await history.replace("chat", Message.of("system", "new"))

    assert await history.search("needle") == ()
    summary = await history.get_session_summary("chat")
    assert (summary.records, summary.roles) == (1, {"system": 1})
    assert (await history.count()).records == 1


async def test_replace_leaves_what_is_said_of_the_session(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id="ann", title="t", metadata={"k": 1})
    await add(history, "chat", "1")
    before = await history.get_session("chat")

    await history.replace("chat", say("new"))

    after = await history.get_session("chat")
    assert (after.user_id, after.title, after.metadata) == ("ann", "t", {"k": 1})
    assert after.created_at == before.created_at
    assert after.updated_at >= before.updated_at


async def test_one_malformed_record_refuses_all_of_it(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    before = await history.get_session("chat")
    bad = Message.of("user", "bad", metadata={"value": float("nan")})

    for session_id in ("chat", "none"):
        with pytest.raises(InvalidRecordError):
            await history.replace(session_id, say("a"), bad, idempotency_key="k")

    assert await history.get_session("chat") == before
    assert await texts(history, "chat") == numbers(3)
    with pytest.raises(SessionNotFoundError):
        await history.get_session("none")
    assert not (await history.replace("chat", say("a"), idempotency_key="k")).replayed


async def test_a_replace_survives_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await fill(history, "chat", 3)
        first = await history.replace("chat", say("new"), idempotency_key="k")

    async with AsyncHistoryManager(make_storage()) as history:
        again = await history.replace("chat", say("new"), idempotency_key="k")
        assert await texts(history, "chat") == ["new"]

    assert (again.replayed, again.epoch) == (True, first.epoch)


async def test_expected_seq_holds_or_refuses(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)

    with pytest.raises(SequenceConflictError) as caught:
        await history.replace("chat", say("new"), expected_seq=2)
    with pytest.raises(SequenceConflictError):
        await history.replace("none", say("new"), expected_seq=1)

    assert (caught.value.expected, caught.value.actual) == (2, 3)
    assert await texts(history, "chat") == numbers(3)
    with pytest.raises(SessionNotFoundError):
        await history.get_session("none")
    await history.replace("chat", say("new"), expected_seq=3)
    assert await texts(history, "chat") == ["new"]


# -- idempotency keys


@pytest.mark.parametrize("new", [[], ["1"], ["1", "2"]])
async def test_a_repeated_replace_answers_the_same_and_replaces_nothing(
    history: AsyncHistoryManager, new: list[str]
) -> None:
    await fill(history, "chat", 3)
    first = await history.replace("chat", *map(say, new), idempotency_key="k", expected_seq=3)
    await add(history, "chat", "later")

    again = await history.replace("chat", *map(say, new), idempotency_key="k", expected_seq=3)

    assert (first.replayed, again.replayed) == (False, True)
    assert (again.epoch, again.first_seq, again.last_seq) == (first.epoch, 1, len(new))
    assert await texts(history, "chat") == [*new, "later"]


async def test_a_key_with_other_records_is_refused(history: AsyncHistoryManager) -> None:
    await history.replace("chat", say("one"), idempotency_key="k")

    for other in ([], [say("other")], [say("one"), say("two")], [Message.of("system", "one")]):
        with pytest.raises(IdempotencyMismatchError):
            await history.replace("chat", *other, idempotency_key="k", expected_seq=99)

    assert await texts(history, "chat") == ["one"]


async def test_keys_of_before_a_replace_are_known_after_it(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), say("2"), idempotency_key="append")
    await history.pop("chat", idempotency_key="pop")
    await history.truncate("chat", 0, idempotency_key="truncate")
    await history.replace("chat", say("first"), idempotency_key="replace")
    await history.replace("chat", say("second"))

    answers = [
        await history.append("chat", say("1"), say("2"), idempotency_key="append"),
        await history.pop("chat", idempotency_key="pop"),
        await history.truncate("chat", 0, idempotency_key="truncate"),
        await history.replace("chat", say("first"), idempotency_key="replace"),
    ]

    assert all(answer.replayed for answer in answers)
    assert await texts(history, "chat") == ["second"]


# -- at once


async def test_replaces_at_once_leave_one_of_them_whole(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    answers: dict[int, Appended] = {}

    async def replace(number: int) -> None:
        new = [say(f"{number}.{index}") for index in range(number + 1)]
        answers[number] = await history.replace("chat", *new)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(replace, number)

    last = max(answers, key=lambda number: answers[number].epoch)
    assert len({answer.epoch for answer in answers.values()}) == 20
    assert await texts(history, "chat") == [f"{last}.{index}" for index in range(last + 1)]


async def test_readers_see_all_of_a_replace_or_nothing(history: AsyncHistoryManager) -> None:
    await history.replace("chat", *[say("0")] * 3)
    done = anyio.Event()

    async def write() -> None:
        for number in range(1, 30):
            await history.replace("chat", *[say(str(number))] * (3 + number % 4))
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not done.is_set():
            page = await history.query_history(HistoryQuery("chat", with_total=True))
            [text] = {record.text for record in page}
            assert page.total == len(page) == 3 + int(text) % 4
            await anyio.lowlevel.checkpoint()


# -- the cache


async def test_caches_are_current_after_a_replace(history: AsyncHistoryManager) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 3)
    for new in (["a", "b", "c"], ["d"], [], ["1", "2", "3"]):
        for manager in (writer, reader):
            await warm(manager, "chat")
        await writer.replace("chat", *map(say, new))
        await assert_current(writer, reader, ["chat"])
        assert await texts(reader, "chat") == new
