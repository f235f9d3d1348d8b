"""Forks: made, read, written to. What parents do to them is in test_fork_parents.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryQuery,
    InvalidInputError,
    InvalidQueryError,
    SessionExistsError,
    SessionNotFoundError,
    Storage,
)
from tests.contract.chats import add, assert_current, cached, fill, numbers, say, texts, warm
from tests.contract.forking import append, assert_reads_like_plain, seen

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("at_seq", [0, 1, 3, 5, None])
async def test_a_fork_begins_with_the_first_records(
    history: AsyncHistoryManager, at_seq: int | None
) -> None:
    await fill(history, "chat", 5, user_id="ann")
    shared = 5 if at_seq is None else at_seq

    made = await history.fork("chat", "fork", at_seq=at_seq)

    assert (made.id, made.user_id, made.seq) == ("fork", "ann", shared)
    assert (made.forked_from, made.fork_seq) == ("chat", shared)
    assert await history.get_session("fork") == made
    assert await texts(history, "fork") == numbers(shared)


async def test_a_forks_records_are_its_parents_in_all_but_the_session(
    history: AsyncHistoryManager,
) -> None:
    await append(history, "chat", 7)
    await history.fork("chat", "fork", at_seq=6)

    for record, original in zip(
        await history.last("fork", 6), (await history.last("chat", 7))[:6], strict=True
    ):
        assert (record.record_id, record.timestamp) == (original.record_id, original.timestamp)
        assert (record.seq, record.metadata) == (original.seq, original.metadata)
        assert (record.session_id, original.session_id) == ("fork", "chat")


async def test_a_fork_has_an_epoch_of_its_own(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    parent = await history.get_session("chat")

    made = await history.fork("chat", "fork")

    assert made.epoch > parent.epoch
    assert await history.get_session("chat") == parent


async def test_a_cursor_of_the_parent_is_not_one_of_the_fork(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    page = await history.query_history(HistoryQuery("chat", limit=2))
    await history.fork("chat", "fork")

    with pytest.raises(EpochChangedError):
        await history.query_history(HistoryQuery("fork", after=page.next))


async def test_a_fork_takes_what_it_is_given_and_else_what_its_parent_has(
    history: AsyncHistoryManager,
) -> None:
    expires = datetime(2031, 5, 17, tzinfo=UTC)
    await history.create_session(
        "chat", user_id="ann", title="t", metadata={"k": [1]}, expires_at=expires
    )

    same = await history.fork("chat", "same")
    other = await history.fork(
        "chat", "other", user_id="bob", title="", metadata={}, expires_at=expires
    )

    assert (same.user_id, same.title, same.metadata) == ("ann", "t", {"k": [1]})
    assert same.expires_at is None
    assert (other.user_id, other.title, other.metadata) == ("bob", "", {})
    assert other.expires_at == expires


async def test_a_forks_metadata_is_its_own(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", metadata={"k": 1})
    await history.fork("chat", "fork")

    await history.update_session("chat", metadata={"k": 2}, title="t")
    assert (await history.get_session("fork")).metadata == {"k": 1}
    await history.update_session("fork", metadata={"k": 3})
    assert (await history.get_session("chat")).metadata == {"k": 2}


async def test_a_fork_without_an_id_gets_one(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)

    one, other = await history.fork("chat"), await history.fork("chat")

    assert len({"chat", one.id, other.id}) == 3
    assert await texts(history, one.id) == numbers(2)


async def test_what_cannot_be_forked_is_refused(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    await fill(history, "taken", 1)
    epoch = (await history.get_session("chat")).epoch
    refusals: dict[type[Exception], list[Callable[[], object]]] = {
        SessionNotFoundError: [
            lambda: history.fork("none", "fork"),
            lambda: history.fork("none", "fork", at_seq=0),
        ],
        SessionExistsError: [
            lambda: history.fork("chat", "taken"),
            lambda: history.fork("chat", "chat"),
        ],
        InvalidQueryError: [lambda: history.fork("chat", "fork", at_seq=4)],
        EpochChangedError: [lambda: history.fork("chat", "fork", epoch=epoch + 1)],
        InvalidInputError: [
            lambda: history.fork("chat", ""),
            lambda: history.fork("", "fork"),
            lambda: history.fork("chat", "fork", at_seq=-1),
            lambda: history.fork("chat", "fork", at_seq=True),
            lambda: history.fork("chat", "fork", epoch=-1),
            lambda: history.fork("chat", "fork", user_id=""),
            lambda: history.fork("chat", "fork", metadata={"k": float("nan")}),
            lambda: history.fork("chat", "fork", expires_at=datetime(2031, 1, 1)),
        ],
    }

    for error, calls in refusals.items():
        for call in calls:
            with pytest.raises(error):
                await call()
    assert {session.id for session in await history.list_sessions()} == {"chat", "taken"}
    assert (await history.count()).records == 4


async def test_the_epoch_says_to_what_at_seq_belongs(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    epoch = (await history.get_session("chat")).epoch
    await history.fork("chat", "before", at_seq=3, epoch=epoch)
    await history.truncate("chat", 4)

    with pytest.raises(EpochChangedError) as caught:
        await history.fork("chat", "after", at_seq=3, epoch=epoch)

    assert caught.value.session_id == "chat"
    assert await texts(history, "before") == numbers(3)


async def test_keys_are_not_shared(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("1"), idempotency_key="k")
    await history.fork("chat", "fork")

    appended = await history.append("fork", say("other"), idempotency_key="k")

    assert (appended.replayed, appended.first_seq) == (False, 2)
    assert (await history.append("chat", say("1"), idempotency_key="k")).replayed


async def test_a_fork_survives_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await fill(history, "chat", 5)
        made = await history.fork("chat", "fork", at_seq=3)

    async with AsyncHistoryManager(make_storage()) as history:
        assert await history.get_session("fork") == made
        await add(history, "fork", "own")
        assert await texts(history, "fork") == [*numbers(3), "own"]
        assert await texts(history, "chat") == numbers(5)


# -- writing to both


async def test_parent_and_fork_grow_apart(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 4)
    await history.fork("chat", "fork", at_seq=2)

    await add(history, "chat", "parent's")
    await add(history, "fork", "fork's", "fork's too")

    assert await texts(history, "chat") == [*numbers(4), "parent's"]
    assert await texts(history, "fork") == ["1", "2", "fork's", "fork's too"]
    assert (await history.count()).records == 7


async def test_a_fork_at_0_is_empty_and_stands_alone(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)

    await history.fork("chat", "fork", at_seq=0)
    await add(history, "fork", "own")
    await history.delete_session("chat")

    assert await texts(history, "fork") == ["own"]


async def test_a_fork_of_an_empty_session_is_empty(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")

    made = await history.fork("chat", "fork")
    await add(history, "fork", "own")

    assert (made.seq, made.fork_seq, made.forked_from) == (0, 0, "chat")
    assert await texts(history, "chat") == []


@pytest.mark.parametrize("left", [0, 1, 3, 4, 5])
async def test_a_fork_that_is_cut_leaves_its_parent_alone(
    history: AsyncHistoryManager, left: int
) -> None:
    await fill(history, "chat", 6)
    await history.fork("chat", "fork", at_seq=4)
    await add(history, "fork", "own")

    await history.truncate("fork", left)
    fork = await history.get_session("fork")
    await add(history, "fork", "new", "newer")

    assert (fork.seq, fork.fork_seq) == (left, min(4, left))
    assert await texts(history, "fork") == [*[*numbers(4), "own"][:left], "new", "newer"]
    assert await texts(history, "chat") == numbers(6)


async def test_a_fork_that_is_replaced_shares_nothing(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 4)
    await history.fork("chat", "fork")

    await history.replace("fork", say("new"))

    assert (await history.get_session("fork")).fork_seq == 0
    assert await texts(history, "fork") == ["new"]
    assert await texts(history, "chat") == numbers(4)


async def test_a_fork_that_is_deleted_leaves_its_parent_alone(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 4)
    await history.fork("chat", "fork", at_seq=3)
    await add(history, "fork", "own")

    await history.delete_session("fork")

    assert await texts(history, "chat") == numbers(4)
    assert (await history.count()).records == 4
    again = await history.fork("chat", "fork", at_seq=2)
    assert (again.seq, await texts(history, "fork")) == (2, numbers(2))


# -- reading over the shared records


@pytest.mark.parametrize("at_seq", [1, 6, 12])
@pytest.mark.parametrize("own", [0, 1, 8])
async def test_a_fork_reads_as_a_plain_session_does(
    history: AsyncHistoryManager, at_seq: int, own: int
) -> None:
    await append(history, "chat", 12)
    await history.fork("chat", "fork", at_seq=at_seq)
    await append(history, "fork", 100 + own, 101)

    await assert_reads_like_plain(history, "fork")
    assert await seen(history, "fork") == [*range(1, at_seq + 1), *range(101, 101 + own)]


@pytest.mark.parametrize("below", [True, False])
async def test_a_fork_of_a_fork(history: AsyncHistoryManager, below: bool) -> None:
    await append(history, "chat", 8)
    await history.fork("chat", "fork", at_seq=5)
    await append(history, "fork", 106, 101)

    made = await history.fork("fork", "grandchild", at_seq=3 if below else 9)
    await append(history, "grandchild", 202, 201)

    shared = [1, 2, 3] if below else [*range(1, 6), *range(101, 105)]
    assert (made.forked_from, made.fork_seq) == ("fork", len(shared))
    assert await seen(history, "grandchild") == [*shared, 201, 202]
    await assert_reads_like_plain(history, "grandchild")


@pytest.mark.parametrize("own", [0, 2])
@pytest.mark.parametrize("depth", [2, 15, 16, 17, 18, 20])
async def test_a_long_chain_of_forks(history: AsyncHistoryManager, depth: int, own: int) -> None:
    await append(history, "fork 0", 3)
    expected = {0: [1, 2, 3]}
    for number in range(1, depth + 1):
        # Each leaves out the newest record of the one before, if that has any of its own.
        at_seq = len(expected[number - 1]) - (own > 0)
        await history.fork(f"fork {number - 1}", f"fork {number}", at_seq=at_seq)
        await append(history, f"fork {number}", number * 100 + own, number * 100 + 1)
        mine = range(number * 100 + 1, number * 100 + own + 1)
        expected[number] = [*expected[number - 1][:at_seq], *mine]

    await assert_reads_like_plain(history, f"fork {depth}")
    for number, wanted in expected.items():
        assert await seen(history, f"fork {number}") == wanted


async def test_records_count_the_same_however_deep_a_chain_of_forks_is(
    history: AsyncHistoryManager,
) -> None:
    await add(history, "fork 0", "0")
    for number in range(1, 20):
        await history.fork(f"fork {number - 1}", f"fork {number}")
        await add(history, f"fork {number}", str(number))

    assert (await history.count()).records == 20


# -- another owner


async def test_another_owner_gets_a_copy_that_reads_the_same(
    history: AsyncHistoryManager,
) -> None:
    await history.create_session("chat", user_id="ann")
    await append(history, "chat", 10)

    made = await history.fork("chat", "copy", at_seq=8, user_id="bob")
    await append(history, "copy", 102, 101)

    assert (made.user_id, made.forked_from, made.fork_seq) == ("bob", "chat", 8)
    assert (await history.count()).records == 20
    await assert_reads_like_plain(history, "copy")
    await history.truncate("chat", 2)
    assert await seen(history, "copy") == [*range(1, 9), 101, 102]


async def test_within_one_owner_records_are_shared(history: AsyncHistoryManager) -> None:
    for parent, owner in (("ann's", "ann"), ("nobody's", None)):
        await history.create_session(parent, user_id=owner)
        await append(history, parent, 10)
        await history.fork(parent, f"{parent} fork", user_id=owner)

    assert (await history.count()).records == 20


async def test_a_session_of_nobody_is_copied_for_an_owner(history: AsyncHistoryManager) -> None:
    await append(history, "chat", 4)

    await history.fork("chat", "copy", user_id="ann")

    assert (await history.count()).records == 8
    assert await seen(history, "copy") == [1, 2, 3, 4]


# -- the cache


async def test_caches_are_current_after_a_fork(history: AsyncHistoryManager) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 4)
    for manager in (writer, reader):
        await warm(manager, "chat")
    await writer.fork("chat", "fork", at_seq=3)
    await assert_current(writer, reader, ["chat", "fork"])
    await add(writer, "fork", "own")
    await assert_current(writer, reader, ["chat", "fork"])


async def test_a_fork_under_the_id_of_a_deleted_session_is_not_taken_for_it(
    history: AsyncHistoryManager,
) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 2)
    await add(writer, "fork", "old", "older")
    for manager in (writer, reader):
        await warm(manager, "chat", "fork")

    await writer.delete_session("fork")
    await writer.fork("chat", "fork")

    await assert_current(writer, reader, ["chat", "fork"])
    assert await texts(reader, "fork") == numbers(2)


@pytest.mark.parametrize("way", ["fork", "create"])
async def test_a_session_made_here_is_not_taken_for_one_deleted_elsewhere(
    history: AsyncHistoryManager, way: str
) -> None:
    # Level "cached" is current for this process's writes, which a fork and a create are.
    ours, theirs = cached(history), cached(history)
    await add(ours, "chat", "old")
    await fill(ours, "parent", 2)
    await ours.last("chat")
    await theirs.delete_session("chat")

    if way == "fork":
        await ours.fork("parent", "chat")
    else:
        await ours.create_session("chat")

    assert await texts(ours, "chat", level="cached") == (numbers(2) if way == "fork" else [])
