"""Pop: the newest records, handed out as they go."""

from __future__ import annotations

import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    IdempotencyMismatchError,
    InvalidQueryError,
    LLMRequest,
    SequenceConflictError,
    ToolCall,
)
from tests.contract.chats import (
    add,
    assert_current,
    assert_rewritten,
    cached,
    fill,
    numbers,
    read_all,
    say,
    texts,
    warm,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_pop_hands_out_the_newest_records_as_they_were_stored(
    history: AsyncHistoryManager, count: int
) -> None:
    await history.append(
        "chat",
        say("one"),
        ToolCall(name="f", input={"a": [1, None, "ü\0"]}),
        LLMRequest(request_id="r", provider="p", model="m"),
        say("four"),
        say("five"),
    )
    stored = await read_all(history, "chat")

    popped = await history.pop("chat", count)

    assert popped.records == stored[5 - count :]
    assert (popped.session_id, popped.seq, popped.removed) == ("chat", 5 - count, count)
    assert not popped.replayed
    assert await read_all(history, "chat") == stored[: 5 - count]
    assert (await history.get_session("chat")).epoch == popped.epoch


async def test_pop_takes_one_unless_told_otherwise(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)

    popped = await history.pop("chat")

    assert [record.text for record in popped.records] == ["3"]
    assert await texts(history, "chat") == numbers(2)


async def test_pop_takes_as_many_as_there_are(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)

    popped = await history.pop("chat", 10_000)

    assert [record.text for record in popped.records] == numbers(3)
    assert (popped.seq, popped.removed) == (0, 3)
    assert await texts(history, "chat") == []


@pytest.mark.parametrize("key", [None, "k"])
async def test_pop_of_an_empty_session_does_nothing(
    history: AsyncHistoryManager, key: str | None
) -> None:
    made = await history.create_session("chat")

    popped = await history.pop("chat", 3, idempotency_key=key)

    assert (popped.records, popped.seq, popped.removed, popped.epoch) == ((), 0, 0, made.epoch)
    assert await history.get_session("chat") == made


async def test_pop_of_none_does_nothing(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    before = await history.get_session("chat")

    popped = await history.pop("chat", 0)

    assert (popped.records, popped.seq, popped.removed) == ((), 3, 0)
    assert await history.get_session("chat") == before


@pytest.mark.parametrize("count", [-1, 10_001, 1.0, True, "1", None])
async def test_a_count_that_is_none_is_refused(history: AsyncHistoryManager, count: object) -> None:
    await fill(history, "chat", 3)

    with pytest.raises(InvalidQueryError, match="count"):
        await history.pop("chat", count)

    assert await texts(history, "chat") == numbers(3)


async def test_a_pop_begins_a_new_epoch(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    await assert_rewritten(history, "chat", lambda: history.pop("chat"))


async def test_pop_by_pop_a_session_is_emptied_and_goes_on(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 4)

    for number in (4, 3, 2, 1):
        popped = await history.pop("chat")
        assert [(item.seq, item.text) for item in popped.records] == [(number, str(number))]
    assert (await history.pop("chat")).removed == 0

    assert (await history.append("chat", say("new"))).first_seq == 1


async def test_expected_seq_holds_or_refuses(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    with pytest.raises(SequenceConflictError) as caught:
        await history.pop("chat", expected_seq=4, idempotency_key="k")

    assert (caught.value.expected, caught.value.actual) == (4, 5)
    assert await texts(history, "chat") == numbers(5)
    assert not (await history.pop("chat", expected_seq=5, idempotency_key="k")).replayed


# -- idempotency keys


async def test_a_repeated_pop_hands_out_the_same_records_and_removes_nothing_more(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    first = await history.pop("chat", 2, idempotency_key="k", expected_seq=5)
    await add(history, "chat", "another", "and another")

    again = await history.pop("chat", 2, idempotency_key="k", expected_seq=5)

    assert again.replayed
    assert again.records == first.records
    assert [record.text for record in again.records] == ["4", "5"]
    assert (again.epoch, again.seq, again.removed) == (first.epoch, 3, 2)
    assert await texts(history, "chat") == [*numbers(3), "another", "and another"]


async def test_a_pop_that_found_nothing_finds_nothing_when_it_is_repeated(
    history: AsyncHistoryManager,
) -> None:
    await history.create_session("chat")
    await history.pop("chat", idempotency_key="k")
    await add(history, "chat", "late")

    again = await history.pop("chat", idempotency_key="k")

    assert (again.replayed, again.records, again.removed) == (True, (), 0)
    assert await texts(history, "chat") == ["late"]


async def test_a_key_with_another_count_is_refused(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    await history.pop("chat", 2, idempotency_key="k")

    with pytest.raises(IdempotencyMismatchError):
        await history.pop("chat", 1, idempotency_key="k")

    assert await texts(history, "chat") == numbers(3)


async def test_what_a_pop_handed_out_is_kept_for_its_key_through_all_changes(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    first = await history.pop("chat", 2, idempotency_key="k")
    await history.truncate("chat", 1)
    await history.replace("chat", say("new"))
    await history.fork("chat", "fork")

    assert (await history.pop("chat", 2, idempotency_key="k")).records == first.records
    of_the_fork = await history.pop("fork", 2, idempotency_key="k")
    assert [record.text for record in of_the_fork.records] == ["new"]


async def test_pop_of_a_forks_shared_records_leaves_them_to_the_parent(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    await history.fork("chat", "fork")
    await add(history, "fork", "own")

    popped = await history.pop("fork", 3, idempotency_key="k")

    assert [(item.session_id, item.seq, item.text) for item in popped.records] == [
        ("fork", 4, "4"), ("fork", 5, "5"), ("fork", 6, "own"),
    ]  # fmt: skip
    assert await texts(history, "chat") == numbers(5)
    assert await texts(history, "fork") == numbers(3)
    await history.delete_session("chat")
    again = await history.pop("fork", 3, idempotency_key="k")
    assert again.records == popped.records


# -- the cache


async def test_caches_are_current_after_a_pop(history: AsyncHistoryManager) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 5)
    for count in (0, 1, 2, 9):
        for manager in (writer, reader):
            await warm(manager, "chat")
        epoch = (await history.get_session("chat")).epoch
        popped = await writer.pop("chat", count)
        await assert_current(writer, reader, ["chat"])
        if popped.removed:
            with pytest.raises(EpochChangedError):
                await writer.truncate("chat", 0, epoch=epoch)
