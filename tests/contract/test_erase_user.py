"""erase_user: what goes with a user and what stays; test_erasure.py looks for traces."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    InvalidInputError,
    Removed,
    Storage,
    TailCache,
)
from tests.contract.chats import add, fill, numbers, session_ids, texts, usage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def peopled(history: AsyncHistoryManager) -> AsyncHistoryManager:
    """Sessions of ann, of bob, who has forks of hers, and of nobody."""
    for name, owner in (("ann 1", "ann"), ("ann 2", "ann"), ("bob 1", "bob"), ("none", None)):
        await fill(history, name, 4, user_id=owner)
        await history.append(name, usage("r", 7))
    await history.append("ann 1", Cost(request_id="r", provider="p", model="m", currency="EUR"))
    await history.fork("ann 1", "bob's copy", at_seq=3, user_id="bob")
    await history.fork("ann 1", "ann's fork", at_seq=2)
    await history.fork("ann 1", "bob's fork", at_seq=5)
    await history.fork("bob's fork", "bob's fork's fork", at_seq=4)
    for name in ("bob's fork", "bob's fork's fork"):  # they share ann's records from before
        await history.update_session(name, user_id="bob")
    return history


async def test_erase_takes_all_of_a_user_and_nothing_else(peopled: AsyncHistoryManager) -> None:
    removed = await peopled.erase_user("ann")

    assert removed.sessions == 3
    assert await session_ids(peopled) == {
        "bob 1", "none", "bob's copy", "bob's fork", "bob's fork's fork",
    }  # fmt: skip
    assert len(await peopled.list_sessions(user_id="ann")) == 0
    assert (await peopled.get_token_statistics(user_id="ann")).calls == 0
    by_user = await peopled.get_token_statistics(group_by="user")
    assert {user: group.total_tokens for user, group in by_user.groups.items()} == {
        "bob": 7, "": 7,
    }  # fmt: skip
    assert (await peopled.get_cost_statistics()).currencies == {}
    assert await peopled.search("1", user_id="ann") == ()


async def test_erase_leaves_other_users_forks_readable(peopled: AsyncHistoryManager) -> None:
    before = {name: await peopled.last(name) for name in ("bob's copy", "bob's fork")}

    await peopled.erase_user("ann")

    for name, records in before.items():
        assert await peopled.last(name) == records
        assert (await peopled.get_session(name)).forked_from is None
    assert [record.seq for record in await peopled.last("bob's fork's fork")] == [1, 2, 3, 4]
    await add(peopled, "bob's copy", "more")
    assert await texts(peopled, "bob's copy") == [*numbers(3), "more"]


async def test_removed_counts_the_records_that_are_gone(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5, user_id="ann")
    await history.fork("chat", "fork", at_seq=3)
    await history.update_session("fork", user_id="bob")

    removed = []
    for user in ("ann", "bob"):
        before = (await history.count()).records
        found = await history.erase_user(user)
        assert found.sessions == 1
        removed.append((found.records, before - (await history.count()).records))

    assert [records for records, _ in removed] == [gone for _, gone in removed]


async def test_erasing_everyone_leaves_what_is_of_nobody(peopled: AsyncHistoryManager) -> None:
    for user in ("bob", "ann"):
        await peopled.erase_user(user)

    assert await session_ids(peopled) == {"none"}
    assert (await peopled.count()).records == 5
    assert (await peopled.get_token_statistics()).calls == 1


async def test_a_user_without_sessions_is_erased_too(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2, user_id="ann")

    for user in ("bob", "an", "ANN", "ann%", "u"):
        assert await history.erase_user(user) == Removed()

    assert await session_ids(history) == {"chat"}


@pytest.mark.parametrize("bad", ["", "a\0", "\ud800", 5])
async def test_a_user_that_is_none_is_refused(history: AsyncHistoryManager, bad: object) -> None:
    with pytest.raises(InvalidInputError):
        await history.erase_user(bad)


async def test_erase_takes_more_than_one_transaction_holds(history: AsyncHistoryManager) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(205):
            owner = "bob" if number % 41 == 0 else "ann"
            tasks.start_soon(_fill, history, f"chat {number}", owner)

    assert await history.erase_user("ann") == Removed(sessions=200, records=200)
    assert await session_ids(history) == {f"chat {number}" for number in range(0, 205, 41)}


async def _fill(history: AsyncHistoryManager, name: str, owner: str) -> None:
    await fill(history, name, 1, user_id=owner)


async def test_sessions_of_an_erased_user_can_be_made_again(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3, user_id="ann")
    old = await history.get_session("chat")
    await history.erase_user("ann")

    await fill(history, "chat", 1, user_id="ann")

    assert (await history.get_session("chat")).epoch > old.epoch
    assert await texts(history, "chat") == ["1"]


async def test_an_erased_user_stays_erased_when_the_store_is_opened_again(
    make_storage: Callable[[], Storage],
) -> None:
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await fill(history, "ann's", 3, user_id="ann")
        await fill(history, "bob's", 3, user_id="bob")
        await history.erase_user("ann")

    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        assert await session_ids(history) == {"bob's"}
        assert (await history.count()).records == 3
