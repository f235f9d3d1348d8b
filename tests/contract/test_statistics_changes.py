"""Statistics after changes: each session's own records and no others, each call once."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    InvalidRecordError,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    Usage,
)
from tests.contract.books import Books
from tests.contract.chats import usage
from tests.contract.sums import assert_all_statistics

pytestmark = pytest.mark.anyio

CALL = {"request_id": "r", "provider": "p", "model": "m"}


async def tokens(history: AsyncHistoryManager, *session: str, **options: Any) -> int:
    return (await history.get_token_statistics(*session, **options)).total_tokens


# -- one by one


async def test_a_truncate_takes_back_what_its_records_said_of_a_call(
    history: AsyncHistoryManager,
) -> None:
    slow = LLMResponse(
        **{**CALL, "model": "m-dated"},
        finish_reason="length",
        response_time=9,
        usage=Usage(input_tokens=1, output_tokens=2),
    )
    await history.append(
        "chat",
        LLMResponse(**{**CALL, "request_id": "other"}, finish_reason="stop", response_time=1),
        slow,
        LLMRequest(**CALL),
        Cost(**CALL, total_cost=Decimal(1)),
        TokenUsage(**CALL, input_tokens=10, output_tokens=10),
        Cost(**CALL, total_cost=Decimal(2), currency="EUR"),
    )
    seen: list[tuple[Any, ...]] = []

    for left in (6, 5, 4, 3, 2, 1, 0):
        await history.truncate("chat", left)
        llm = await history.get_llm_statistics()
        costs = await history.get_cost_statistics()
        seen.append(
            (
                await tokens(history),
                {name: amounts.total_cost for name, amounts in costs.currencies.items()},
                sorted(llm.groups),
                llm.max_response_time,
            )
        )

    assert seen == [
        (20, {"EUR": 2}, ["m"], 9.0),
        (20, {"USD": 1}, ["m"], 9.0),
        (3, {"USD": 1}, ["m"], 9.0),
        (3, {}, ["m"], 9.0),
        (3, {}, ["m", "m-dated"], 9.0),
        (0, {}, ["m"], 1.0),
        (0, {}, [], None),
    ]


async def test_replace_counts_the_new_records_and_no_others(history: AsyncHistoryManager) -> None:
    await history.append("chat", usage("r", 5), usage("s", 6))

    await history.replace("chat", usage("r", 7))
    assert await tokens(history) == 7
    await history.replace("chat", Message.of("user", "x"))
    assert (await history.get_token_statistics()).calls == 0


async def test_a_forks_shared_records_are_not_its_own(history: AsyncHistoryManager) -> None:
    await history.append("chat", usage("r", 5), usage("s", 6))
    await history.fork("chat", "fork")
    await history.fork("chat", "copy", user_id="ann")

    assert await tokens(history) == 11
    assert await tokens(history, "fork") == await tokens(history, "copy") == 0
    await history.append("fork", usage("t", 100))
    assert (await tokens(history), await tokens(history, "fork")) == (111, 100)


async def test_a_call_that_goes_on_in_a_fork_is_a_call_of_each(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", LLMRequest(**CALL))
    await history.fork("chat", "fork")

    for name, time in (("chat", 1), ("fork", 2)):
        response = LLMResponse(**CALL, usage=Usage(total_tokens=5), response_time=time)
        await history.append(name, response)

    llm = await history.get_llm_statistics()
    fork = await history.get_llm_statistics("fork")
    assert (llm.requests, llm.responses) == (1, 2)
    assert (fork.requests, fork.responses, fork.max_response_time) == (0, 1, 2.0)
    assert await tokens(history) == 10


@pytest.mark.parametrize("change", ["truncate", "replace", "delete"])
async def test_records_that_only_forks_are_left_with_count_for_none(
    history: AsyncHistoryManager, change: str
) -> None:
    await history.create_session("chat", user_id="ann")
    await history.append("chat", *[usage(f"r{number}", 1) for number in range(6)])
    await history.fork("chat", "fork", at_seq=4)
    await history.append("fork", usage("own", 100))
    await history.fork("fork", "grandchild")

    if change == "truncate":
        await history.truncate("chat", 1)
    elif change == "replace":
        await history.replace("chat", usage("new", 1))
    else:
        await history.delete_session("chat")

    left = 0 if change == "delete" else 1
    assert await tokens(history) == 100 + left
    assert await tokens(history, "fork") == 100
    assert await tokens(history, "grandchild") == 0
    # Whoever holds the records now, cutting there must not begin to count them.
    await history.truncate("fork", 4)
    assert await tokens(history, "fork") == 0
    await history.truncate("grandchild", 3)
    await history.append("grandchild", usage("late", 1000))
    assert await tokens(history) == 1000 + left


async def test_what_a_fork_appends_after_it_was_cut_is_its_own(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", *[usage(f"r{number}", 1) for number in range(5)])
    await history.fork("chat", "fork")

    await history.truncate("fork", 2)
    await history.append("fork", usage("r3", 50))
    assert (await tokens(history), await tokens(history, "fork")) == (55, 50)
    await history.truncate("fork", 2)
    assert (await tokens(history), await tokens(history, "fork")) == (5, 0)


async def test_calls_go_with_their_session_to_another_owner(history: AsyncHistoryManager) -> None:
    await history.append("chat", usage("r", 5))

    for owner in ("ann", "bob", "bob"):
        await history.update_session("chat", user_id=owner)
        found = await history.get_token_statistics(group_by="user")
        assert {user: group.total_tokens for user, group in found.groups.items()} == {owner: 5}
        assert await tokens(history, user_id=owner) == 5
    assert await tokens(history, user_id="ann") == 0


async def test_a_pop_that_is_repeated_takes_calls_back_once(history: AsyncHistoryManager) -> None:
    await history.append("chat", usage("r", 5), usage("s", 6))
    for _ in range(2):
        await history.pop("chat", idempotency_key="k")

    assert await tokens(history) == 5


async def test_a_call_that_failed_and_was_tried_again_has_a_response(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", LLMRequest(**CALL), LLMResponse(**CALL, finish_reason="error"))
    failed = await history.get_llm_statistics()
    await history.append("chat", LLMResponse(**CALL, finish_reason="stop"))
    answered = await history.get_llm_statistics()
    await history.truncate("chat", 2)

    assert (failed.responses, failed.finish_reasons) == (0, {"error": 1})
    assert (answered.responses, answered.finish_reasons) == (1, {"stop": 1})
    assert await history.get_llm_statistics() == failed


async def test_an_empty_finish_reason_is_none(history: AsyncHistoryManager) -> None:
    await history.append("chat", LLMResponse(**CALL, finish_reason=""))

    llm = await history.get_llm_statistics()
    assert (llm.responses, llm.finish_reasons) == (1, {})


async def test_a_cost_without_a_currency_is_refused(history: AsyncHistoryManager) -> None:
    with pytest.raises(InvalidRecordError, match="currency"):
        await history.append("chat", Cost(**CALL, total_cost=Decimal(1), currency=""))


async def test_the_largest_numbers_are_summed_exactly(history: AsyncHistoryManager) -> None:
    most = 10**12
    calls = [{**CALL, "request_id": f"r{number}"} for number in range(600)]
    money = Decimal("8999999.999999999999")
    await history.append(
        "chat",
        *[TokenUsage(**call, input_tokens=most, output_tokens=most) for call in calls],
        *[Cost(**call, total_cost=money) for call in calls],
    )

    found = await history.get_token_statistics()
    costs = await history.get_cost_statistics()
    assert (type(found.total_tokens), found.total_tokens) == (int, 1200 * most)
    assert costs.currencies["USD"].total_cost == 600 * money
    with pytest.raises(InvalidRecordError):
        await history.append("chat", TokenUsage(**CALL, input_tokens=most + 1))


# -- any changes at all


@pytest.mark.parametrize("seed", range(6))
async def test_statistics_are_those_of_the_records_whatever_was_changed(
    history: AsyncHistoryManager, seed: int
) -> None:
    books = Books(history, random.Random(seed))
    for _ in range(3):
        await books.create()
    for step in range(1, 61):
        await books.step()
        if step % 10 == 0:
            await assert_all_statistics(history, books.calls())
    for name in sorted(books.records):
        await books.delete(name)
    await assert_all_statistics(history, [])
