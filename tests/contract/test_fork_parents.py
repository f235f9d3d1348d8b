"""What is done to a session never alters those that were forked from it, nor theirs."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from asynchistory import AsyncHistoryManager, HistoryQuery
from tests.contract.chats import (
    add,
    all_texts,
    assert_current,
    cached,
    fill,
    numbers,
    say,
    seqs,
    texts,
    warm,
)
from tests.contract.forking import append, assert_reads_like_plain, seen, some

pytestmark = pytest.mark.anyio

Change = Callable[[AsyncHistoryManager, str], Awaitable[object]]

#: name, parent, where it is forked, own records. Children at many places, several at one; forks
#: of forks at, above and below the place where those begin.
TREE = [
    ("at 0", "chat", 0, 1),
    ("at 2", "chat", 2, 2),
    ("at 4", "chat", 4, 0),
    ("at 4 too", "chat", 4, 3),
    ("at 6", "chat", 6, 2),
    ("at 10", "chat", 10, 1),
    ("bare at 10", "chat", 10, 0),
    ("below", "at 6", 3, 1),
    ("at its end", "at 6", 6, 1),
    ("above", "at 6", 7, 2),
    ("of a bare one", "at 4", 4, 2),
    ("great-grandchild", "above", 8, 1),
    ("great-grandchild below", "above", 5, 1),
]


async def plant(history: AsyncHistoryManager) -> dict[str, list[int]]:
    """The tree, and what is in each of its sessions."""
    await history.create_session("chat", user_id="ann")
    await append(history, "chat", 10)
    held = {"chat": list(range(1, 11))}
    for index, (name, parent, at_seq, own) in enumerate(TREE, 1):
        await history.fork(parent, name, at_seq=at_seq)
        first = index * 100 + 1
        await append(history, name, first + own - 1, first)
        held[name] = [*held[parent][:at_seq], *range(first, first + own)]
    return held


async def assert_holds(history: AsyncHistoryManager, held: dict[str, list[int]]) -> None:
    assert {name: await seen(history, name) for name in held} == held
    assert {session.id for session in await history.list_sessions()} == set(held)


CHANGES: dict[str, Change] = {
    "truncate to 0": lambda history, name: history.truncate(name, 0),
    "truncate to 1": lambda history, name: history.truncate(name, 1),
    "truncate to 3": lambda history, name: history.truncate(name, 3),
    "truncate to 5": lambda history, name: history.truncate(name, 5),
    "truncate to 9": lambda history, name: history.truncate(name, 9),
    "pop": lambda history, name: history.pop(name),
    "replace": lambda history, name: history.replace(name, *some(1001, 1000)),
    "replace by nothing": lambda history, name: history.replace(name),
    "delete": lambda history, name: history.delete_session(name),
}


def changed(change: str, before: list[int]) -> list[int] | None:
    kind, *rest = change.split()
    match kind:
        case "truncate":
            return before[: int(rest[-1])]
        case "pop":
            return before[:-1]
        case "replace":
            return [] if rest else [1000, 1001]
        case _:
            return None


@pytest.mark.parametrize("name", ["chat", "at 6", "above"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_alters_one_session_and_no_other(
    history: AsyncHistoryManager, name: str, change: str
) -> None:
    held = await plant(history)

    await CHANGES[change](history, name)

    after = changed(change, held[name])
    if after is None:
        del held[name]
    else:
        held[name] = after
    await assert_holds(history, held)
    for other in {name, "great-grandchild"} & set(held):
        await assert_reads_like_plain(history, other)


async def test_a_parent_is_taken_back_record_by_record(history: AsyncHistoryManager) -> None:
    held = await plant(history)

    for left in range(9, -1, -1):
        await history.truncate("chat", left)
        held["chat"] = held["chat"][:left]
        await assert_holds(history, held)
    await append(history, "chat", 5)
    held["chat"] = [1, 2, 3, 4, 5]
    await assert_holds(history, held)


@pytest.mark.parametrize("seed", range(5))
async def test_a_tree_is_deleted_in_any_order(history: AsyncHistoryManager, seed: int) -> None:
    held = await plant(history)
    order = sorted(held)
    random.Random(seed).shuffle(order)

    for name in order:
        assert await history.delete_session(name)
        del held[name]
        await assert_holds(history, held)
    assert (await history.count()).records == 0


@pytest.mark.parametrize("seed", range(5))
async def test_a_parent_that_was_cut_grows_and_is_forked_again(
    history: AsyncHistoryManager, seed: int
) -> None:
    held = await plant(history)
    draw, fresh = random.Random(seed), count(5000)

    for step in range(40):
        name = draw.choice(sorted(held))
        records = held[name]
        action = draw.choice(["truncate", "append", "append", "fork", "fork", "replace", "delete"])
        if action == "truncate":
            left = draw.randint(0, len(records))
            await history.truncate(name, left)
            held[name] = records[:left]
        elif action == "append":
            number = next(fresh)
            await history.append(name, *some(number, number))
            held[name] = [*records, number]
        elif action == "fork":
            at_seq = draw.randint(0, len(records))
            await history.fork(name, f"step {step}", at_seq=at_seq)
            held[f"step {step}"] = records[:at_seq]
        elif action == "replace":
            await history.replace(name, *some(2))
            held[name] = [1, 2]
        elif len(held) > 1:
            await history.delete_session(name)
            del held[name]
        await assert_holds(history, held)


async def test_a_child_is_cut_below_its_beginning_and_then_its_parent_is(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 6)
    await history.fork("chat", "fork", at_seq=5)
    await add(history, "fork", "own")

    await history.truncate("fork", 3)
    await add(history, "fork", "four", "five")
    await history.fork("fork", "grandchild", at_seq=4)
    await history.truncate("chat", 1)
    await history.truncate("fork", 2)

    assert await texts(history, "chat") == ["1"]
    assert await texts(history, "fork") == ["1", "2"]
    assert await texts(history, "grandchild") == ["1", "2", "3", "four"]


@pytest.mark.parametrize("change", ["truncate", "replace", "delete"])
async def test_a_fork_cut_below_what_its_parent_shares_keeps_to_the_cut(
    history: AsyncHistoryManager, change: str
) -> None:
    # parent: a fork whose own records begin at 3. fork: one of it, cut to 1, which is the chat's.
    await fill(history, "chat", 2)
    await history.fork("chat", "parent")
    await add(history, "parent", "3")
    await history.fork("parent", "fork")
    await history.truncate("fork", 1)

    if change == "truncate":
        await history.truncate("parent", 0)
    elif change == "replace":
        await history.replace("parent", say("new"))
    else:
        await history.delete_session("parent")
    await add(history, "fork", "two", "three")

    assert await texts(history, "fork") == ["1", "two", "three"]


async def test_forks_stay_readable_however_often_their_parent_is_cut(
    history: AsyncHistoryManager,
) -> None:
    # What a cut takes may go to a fork, on which the others rest from then on: the way to a record
    # may lead over as many sessions, and SQLite joins no more than 500 SELECTs.
    count = 510
    await fill(history, "chat", count)
    for at_seq in range(1, count + 1):
        await history.fork("chat", f"fork {at_seq}", at_seq=at_seq)
    for left in range(count - 1, 0, -1):
        await history.truncate("chat", left)

    names = [f"fork {at_seq}" for at_seq in (1, 250, 499, 500, 501, 509, count)]
    assert await all_texts(history, names) == {
        name: numbers(int(name.split()[1])) for name in names
    }


async def test_what_no_session_holds_any_more_is_gone(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 10)
    await history.fork("chat", "fork", at_seq=6)
    await history.fork("chat", "other", at_seq=4)

    for left, name, records in ((0, "chat", 6), (5, "fork", 5), (0, "fork", 4), (1, "other", 1)):
        await history.truncate(name, left)
        assert (await history.count()).records == records


# -- what a fork is said to be forked from


@pytest.mark.parametrize("way", ["delete", "prune", "erase"])
async def test_a_fork_whose_parent_is_gone_says_so(history: AsyncHistoryManager, way: str) -> None:
    await fill(history, "chat", 4, user_id="ann")
    await history.fork("chat", "fork", at_seq=3)
    await history.fork("fork", "grandchild")
    await history.update_session("fork", user_id="bob")
    await history.update_session("grandchild", user_id="bob")

    if way == "delete":
        await history.delete_session("chat")
    elif way == "prune":
        await history.prune((await history.get_session("fork")).updated_at)
    else:
        await history.erase_user("ann")

    fork, grandchild = [await history.get_session(name) for name in ("fork", "grandchild")]
    assert (fork.forked_from, fork.fork_seq) == (None, 3)
    assert (grandchild.forked_from, grandchild.fork_seq) == ("fork", 3)
    page = await history.list_sessions(order="created")
    assert page.sessions == (fork, grandchild)
    assert await texts(history, "grandchild") == numbers(3)


async def test_a_parent_that_is_made_again_is_another_session(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 4)
    await history.fork("chat", "fork", at_seq=3)
    await history.delete_session("chat")

    await fill(history, "chat", 4)

    assert (await history.get_session("fork")).forked_from is None
    await history.truncate("chat", 0)
    assert await texts(history, "fork") == numbers(3)


@pytest.mark.parametrize("change", ["truncate", "replace"])
async def test_a_fork_whose_parent_was_rewritten_is_still_its_fork(
    history: AsyncHistoryManager, change: str
) -> None:
    await fill(history, "chat", 4)
    made = await history.fork("chat", "fork", at_seq=3)

    if change == "truncate":
        await history.truncate("chat", 1)
    else:
        await history.replace("chat", say("new"))

    assert await history.get_session("fork") == made


# -- the cache


@pytest.mark.parametrize("change", CHANGES)
async def test_caches_are_current_after_a_parent_has_changed(
    history: AsyncHistoryManager, change: str
) -> None:
    writer, reader = cached(history), cached(history)
    held = await plant(history)
    for manager in (writer, reader):
        await warm(manager, *held)

    await CHANGES[change](writer, "chat")

    if change == "delete":
        del held["chat"]
    await assert_current(writer, reader, sorted(held))
    await append(writer, "at 6", 2000, 2000)
    await assert_current(writer, reader, ["at 6", "above"])


async def test_cursors_and_epoch_of_a_fork_outlive_changes_of_its_parent(
    history: AsyncHistoryManager,
) -> None:
    await append(history, "chat", 8)
    made = await history.fork("chat", "fork")
    forwards = await history.query_history(HistoryQuery("fork", limit=3))
    backwards = await history.query_history(HistoryQuery("fork", limit=3, newest=True))

    for change in ("truncate to 5", "replace", "delete"):
        await CHANGES[change](history, "chat")
        assert (await history.get_session("fork")).epoch == made.epoch
        assert await seqs(history, "fork", after=forwards.next) == [4, 5, 6, 7, 8]
        assert await seqs(history, "fork", before=backwards.next) == [1, 2, 3, 4, 5]
