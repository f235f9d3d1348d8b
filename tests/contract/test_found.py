"""What the tests of changes have found: each of these fails for a fault of the library.

The worst come first. Once one is mended, its test belongs to the file that is named behind it.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    InvalidInputError,
    InvalidQueryError,
    LLMResponse,
    Removed,
    TokenUsage,
)
from tests.contract.chats import add, all_texts, cached, fill, numbers, say, texts, usage

pytestmark = pytest.mark.anyio


# -- forks (test_fork_parents.py)


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

    # SQLite: ["1", "2", "three"]. What was cut is back, and what was appended is not to be read.
    assert await texts(history, "fork") == ["1", "two", "three"]


async def test_forks_stay_readable_however_often_their_parent_is_cut(
    history: AsyncHistoryManager,
) -> None:
    # Each cut puts one more session between the eldest forks and their records. SQLite joins at
    # most 500 SELECTs, so that from the 501st cut on they cannot be read: StorageUnavailableError.
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


# -- keys (test_appends.py)


async def test_a_repeated_record_is_never_answered_with_another_one(
    history: AsyncHistoryManager,
) -> None:
    await history.record_message("chat", "user", "first", idempotency_key="k")
    await history.truncate("chat", 0)
    await history.record_message("chat", "user", "second")

    again = await history.record_message("chat", "user", "first", idempotency_key="k")

    # Both stores hand out "second": what stands at that seq by now.
    assert again.text == "first"


# -- the cache (test_fork.py, test_sessions.py)


@pytest.mark.parametrize("way", ["fork", "create"])
async def test_a_session_made_here_is_not_taken_for_one_deleted_elsewhere(
    history: AsyncHistoryManager, way: str
) -> None:
    """Level "cached" is current for this process's writes; a fork and a create are such."""
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


# -- lists by metadata (test_session_filters.py)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [([1], "[1]"), ({"a": 1}, '{"a":1}'), ([], "[]"), (None, float("nan"))],
    ids=repr,
)
async def test_a_filter_does_not_find_another_value_that_is_written_alike(
    history: AsyncHistoryManager, held: Any, wanted: Any
) -> None:
    await history.create_session("chat", metadata={"k": held})

    try:
        found = await history.list_sessions(metadata={"k": wanted})
    except InvalidQueryError:  # would do for NaN, which no metadata can hold
        assert wanted != wanted
    else:
        assert found.sessions == ()


@pytest.mark.parametrize(
    "wanted",
    [{"k": 2**63}, {"k": -(2**63) - 1}, {"k": "\ud800"}, {"\ud800": 1}],
    ids=["large", "small", "surrogate", "surrogate name"],
)
async def test_a_filter_that_nothing_can_match_finds_nothing_or_is_refused(
    history: AsyncHistoryManager, wanted: Any
) -> None:
    await history.create_session("chat", metadata={"k": 1})

    try:  # SQLite: OverflowError and UnicodeEncodeError, which are none of ours
        found = await history.list_sessions(metadata=wanted)
    except InvalidInputError:
        return
    assert found.sessions == ()


async def test_a_filter_of_many_names_is_answered_or_refused(
    history: AsyncHistoryManager,
) -> None:
    metadata = {f"k{number}": number for number in range(1100)}
    await history.create_session("chat", metadata=metadata)

    try:  # SQLite: StorageUnavailableError, its expressions nest at most 1,000 deep
        found = await history.list_sessions(metadata=metadata)
    except InvalidQueryError:
        return
    assert [session.id for session in found] == ["chat"]


# -- prune and erase_user (test_retention.py)


async def test_removed_counts_the_records_that_are_gone(history: AsyncHistoryManager) -> None:
    """The stores differ: memory counts 5 and 0, what each had written itself; SQLite 2 and 3."""
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


async def test_an_age_beyond_the_calendar_prunes_nothing_or_is_refused(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 1)

    try:  # OverflowError, which is none of ours
        removed = await history.prune(timedelta(days=1_000_000))
    except InvalidInputError:
        return
    assert removed == Removed()


# -- sessions (test_sessions.py)


async def test_an_update_of_nothing_is_no_write(history: AsyncHistoryManager) -> None:
    """The stores differ: memory changes ``updated_at``, SQLite does not."""
    made = await history.create_session("chat")
    while (await history.create_session()).updated_at <= made.updated_at:
        pass

    assert await history.update_session("chat") == made


# -- statistics (test_statistics.py)


async def test_an_empty_finish_reason_and_currency_are_counted_alike(
    history: AsyncHistoryManager,
) -> None:
    """The stores differ: memory has groups named "", SQLite none, so that its money is lost."""
    call: dict[str, Any] = {"request_id": "r", "provider": "p", "model": "m"}

    try:  # refusing them would do
        await history.append(
            "chat",
            LLMResponse(**call, finish_reason=""),
            Cost(**call, total_cost=Decimal(1), currency=""),
        )
    except InvalidInputError:
        return
    costs = await history.get_cost_statistics()
    llm = await history.get_llm_statistics()
    assert (costs.calls, len(costs.currencies), llm.finish_reasons) == (1, 1, {"": 1})


async def test_tokens_are_summed_exactly(history: AsyncHistoryManager) -> None:
    most = 10**12
    records = [
        TokenUsage(
            request_id=f"r{number}", provider="p", model="m", input_tokens=most, output_tokens=most
        )
        for number in range(600)
    ]
    await history.append("chat", usage("s", 1), *records)

    tokens = await history.get_token_statistics()

    # SQLite: past 64 bits its sum is a float, in the rollup too, which then cannot go back.
    assert (type(tokens.total_tokens), tokens.total_tokens) == (int, 1200 * most + 1)


# -- counts (test_counts.py)


async def test_records_count_the_same_however_deep_a_chain_of_forks_is(
    history: AsyncHistoryManager,
) -> None:
    """The stores differ: SQLite copies what a 17th fork shares, and counts the copies."""
    await add(history, "fork 0", "0")
    for number in range(1, 20):
        await history.fork(f"fork {number - 1}", f"fork {number}")
        await add(history, f"fork {number}", str(number))

    assert (await history.count()).records == 20


# -- search (test_search.py)


async def test_a_search_in_a_fork_finds_what_it_shares(history: AsyncHistoryManager) -> None:
    """The stores differ: SQLite finds a shared record in one session alone, memory in each."""
    await add(history, "chat", "needle 1", "needle 2")
    await history.fork("chat", "fork", at_seq=1)
    await add(history, "fork", "needle 3")

    found = await history.search("needle", session_id="fork")

    assert [record.text for record in found] == ["needle 3", "needle 1"]
