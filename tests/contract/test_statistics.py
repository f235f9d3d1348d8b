"""Statistics, against sums made here from the records themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    Cost,
    InvalidQueryError,
    LLMRequest,
    LLMResponse,
    TokenUsage,
    Usage,
)
from tests.contract.sums import (
    KINDS,
    Call,
    assert_all_statistics,
    llm_sums,
    of_costs,
    of_llm,
    of_tokens,
    token_sums,
)

pytestmark = pytest.mark.anyio

OWNERS = {"a": "ann", "b": "bob", "c": None}
FIRST_DAY = datetime(2024, 2, 28, 22, tzinfo=UTC)


def a_usage(draw: random.Random) -> dict[str, int | None]:
    first, second = draw.randrange(1000), draw.randrange(1000)
    return {
        "input_tokens": first,
        "output_tokens": second,
        "total_tokens": draw.choice([first + second, None]),
        "cached_tokens": draw.choice([None, first // 2]),
        "reasoning_tokens": draw.choice([None, second // 2]),
    }


def a_cost(draw: random.Random) -> dict[str, Any]:
    first, second = (Decimal(draw.randrange(10**9)).scaleb(-12) for _ in range(2))
    return draw.choice(
        [
            {"input_cost": first, "output_cost": second, "currency": "USD"},
            {"total_cost": first, "currency": draw.choice(["USD", "EUR"])},
            {"input_cost": first, "currency": "USD"},  # its total is unknown
        ]
    )


class Making:
    """One model call that is made up: what is true of it, and records that say so."""

    def __init__(self, draw: random.Random, number: int) -> None:
        self.session = draw.choice(sorted(OWNERS))
        provider, model = draw.choice(
            [("openai", "gpt-4o"), ("openai", "o3"), ("anthropic", "opus")]
        )
        at = FIRST_DAY + timedelta(hours=draw.randrange(72))
        self.base = {
            "request_id": f"r{number}", "provider": provider, "model": model, "timestamp": at,
        }  # fmt: skip
        self.call = Call(self.session, OWNERS[self.session], provider, model, str(at.date()))
        self.records = [
            *self.of_the_call(draw, draw.random() < 0.8),
            *self.of_its_usage(draw),
            *self.of_its_cost(draw),
        ]

    def of_the_call(self, draw: random.Random, responded: bool) -> list[AnyRecord]:
        call, made = self.call, list[AnyRecord]()
        call.requested = not responded or draw.random() < 0.7
        if call.requested:
            made.append(LLMRequest(**self.base))
        if responded:
            call.responded = True
            call.finish_reason = draw.choice([None, "stop", "length"])
            call.response_time = draw.choice([None, draw.randrange(1, 9000) / 1000])
            call.first_token = draw.choice([None, draw.randrange(1, 900) / 1000])
            usage = a_usage(draw) if draw.random() < 0.5 else None
            self.set_tokens(usage)
            made.append(
                LLMResponse(
                    # A response may name a dated variant of the model; the request's counts.
                    **{**self.base, "model": call.model + "-2024-08-06" * call.requested},
                    finish_reason=call.finish_reason,
                    response_time=call.response_time,
                    time_to_first_token=call.first_token,
                    usage=usage and Usage(**usage),
                )
            )
        return made

    def of_its_usage(self, draw: random.Random) -> list[AnyRecord]:
        if draw.random() < 0.5:
            return []
        usage = a_usage(draw)
        self.set_tokens(usage)
        made = [TokenUsage(**self.base, **usage)]
        if draw.random() < 0.3:  # counted again later: the newest is right
            made.insert(0, TokenUsage(**self.base, input_tokens=999_999, output_tokens=999_999))
        return made

    def of_its_cost(self, draw: random.Random) -> list[AnyRecord]:
        if draw.random() < 0.4:
            return []
        cost = a_cost(draw)
        first, second, total = [cost.get(f"{name}_cost") for name in ("input", "output", "total")]
        if first is not None and second is not None:
            total = first + second
        self.call.currency, self.call.cost = cost["currency"], (first, second, total)
        made = [Cost(**self.base, **cost)]
        if draw.random() < 0.3:
            made.insert(0, Cost(**self.base, total_cost=Decimal(999), currency="XXX"))
        return made

    def set_tokens(self, usage: dict[str, int | None] | None) -> None:
        if usage is not None:
            total = (usage["input_tokens"] or 0) + (usage["output_tokens"] or 0)
            self.call.tokens = {**usage, "total_tokens": total}


@pytest.fixture
async def calls(history: AsyncHistoryManager) -> list[Call]:
    """120 calls, their records of all sessions shuffled and appended in batches of any size."""
    draw = random.Random(7)
    made = [Making(draw, number) for number in range(120)]
    for session, owner in OWNERS.items():
        await history.create_session(session, user_id=owner)
    queues = [(making.session, making.records) for making in made if making.records]
    while queues:
        index = draw.randrange(len(queues))
        session, records = queues[index]
        size = draw.randint(1, len(records))
        await history.append(session, *records[:size])
        queues[index] = (session, records[size:])
        if not queues[index][1]:
            del queues[index]
    await history.record_message("a", "user", "not a call")
    return [making.call for making in made if making.records]


async def test_every_grouping_equals_the_sum_over_the_calls(
    history: AsyncHistoryManager, calls: list[Call]
) -> None:
    await assert_all_statistics(history, calls)

    for method, _, _ in KINDS.values():
        assert (await getattr(history, method)(group_by=None)).groups == {}
        assert set((await getattr(history, method)()).groups) == {"gpt-4o", "o3", "opus"}


FILTERS: list[tuple[dict[str, Any], Callable[[Call], bool]]] = [
    ({"session_id": "b"}, lambda call: call.session == "b"),
    ({"user_id": "ann"}, lambda call: call.user == "ann"),
    ({"model": "o3"}, lambda call: call.model == "o3"),
    ({"since": "2024-02-29"}, lambda call: call.day >= "2024-02-29"),
    ({"until": "2024-02-29"}, lambda call: call.day <= "2024-02-29"),
    ({"since": "2024-03-01", "until": "2024-03-01"}, lambda call: call.day == "2024-03-01"),
    (
        {"session_id": "a", "model": "gpt-4o", "since": "2024-02-29"},
        lambda call: (call.session, call.model) == ("a", "gpt-4o") and call.day >= "2024-02-29",
    ),
    (
        {"user_id": "bob", "model": "opus", "until": "2024-02-29"},
        lambda call: (call.user, call.model) == ("bob", "opus") and call.day <= "2024-02-29",
    ),
    ({"session_id": "none"}, lambda call: False),
    ({"user_id": "bob", "session_id": "a"}, lambda call: False),
    ({"since": "1970-01-01"}, lambda call: True),
    ({"until": "1970-01-01"}, lambda call: False),
]


@pytest.mark.parametrize("number", range(len(FILTERS)))
async def test_every_filter_equals_the_sum_over_the_calls(
    history: AsyncHistoryManager, calls: list[Call], number: int
) -> None:
    options, wanted = FILTERS[number]

    await assert_all_statistics(history, [call for call in calls if wanted(call)], **options)


# -- the rules, one by one

CALL = {"request_id": "r", "provider": "p", "model": "m"}


async def test_a_call_described_by_several_records_counts_once(
    history: AsyncHistoryManager,
) -> None:
    await history.append(
        "chat",
        LLMRequest(**CALL),
        LLMResponse(**CALL, usage=Usage(input_tokens=10, output_tokens=1)),
        TokenUsage(**CALL, input_tokens=11, output_tokens=2),
        Cost(**CALL, total_cost=Decimal("0.5")),
        Cost(**CALL, total_cost=Decimal("0.75")),
    )

    tokens = await history.get_token_statistics()
    costs = await history.get_cost_statistics()
    llm = await history.get_llm_statistics()
    assert (tokens.calls, tokens.input_tokens, tokens.total_tokens) == (1, 11, 13)
    assert (costs.calls, costs.currencies["USD"].total_cost) == (1, Decimal("0.75"))
    assert (llm.requests, llm.responses) == (1, 1)


async def test_token_usage_outranks_a_response_that_comes_later(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", TokenUsage(**CALL, input_tokens=5, output_tokens=5))
    await history.append("chat", LLMResponse(**CALL, usage=Usage(input_tokens=1, output_tokens=1)))
    before = await history.get_token_statistics()
    await history.append("chat", TokenUsage(**CALL, input_tokens=7, output_tokens=None))
    after = await history.get_token_statistics()

    assert (before.calls, before.input_tokens, before.output_tokens) == (1, 5, 5)
    assert (after.calls, after.input_tokens, after.output_tokens) == (1, 7, 0)


async def test_the_same_request_id_in_two_sessions_is_two_calls(
    history: AsyncHistoryManager,
) -> None:
    for session in ("a", "b"):
        await history.append(session, TokenUsage(**CALL, input_tokens=5, output_tokens=5))

    assert (await history.get_token_statistics()).calls == 2
    assert (await history.get_token_statistics("a")).calls == 1


async def test_unknown_is_not_0(history: AsyncHistoryManager) -> None:
    await history.append(
        "chat",
        LLMRequest(**CALL),
        LLMResponse(**{**CALL, "request_id": "s"}, usage=Usage()),
        TokenUsage(**{**CALL, "request_id": "t"}, input_tokens=0, output_tokens=0),
        Cost(**{**CALL, "request_id": "t"}, total_cost=Decimal(0)),
    )

    tokens = await history.get_token_statistics()
    costs = await history.get_cost_statistics()
    llm = await history.get_llm_statistics()
    assert (tokens.calls, tokens.unknown_calls) == (1, 2)
    assert (costs.calls, costs.unknown_calls) == (1, 2)
    usd = costs.currencies["USD"]
    assert (usd.input_cost, usd.output_cost, usd.total_cost) == (None, None, 0)
    assert (llm.mean_response_time, llm.max_response_time) == (None, None)
    assert llm.mean_time_to_first_token is None


async def test_currencies_are_not_mixed_and_money_is_exact(history: AsyncHistoryManager) -> None:
    for number in range(10):
        await history.record_cost(
            "chat", request_id=f"r{number}", provider="p", model="m", total_cost="0.1",
            currency="EUR" if number % 2 else "USD",
        )  # fmt: skip
    for number in range(3):
        await history.record_cost(
            "chat", request_id=f"s{number}", provider="p", model="m",
            total_cost=Decimal("8999999.999999999999"), currency="JPY",
        )  # fmt: skip

    found = (await history.get_cost_statistics()).currencies

    assert {name: amount.total_cost for name, amount in found.items()} == {
        "USD": Decimal("0.5"),
        "EUR": Decimal("0.5"),
        "JPY": Decimal("26999999.999999999997"),
    }


async def test_a_replayed_append_is_not_counted_again(history: AsyncHistoryManager) -> None:
    for _ in range(3):
        await history.append(
            "chat", TokenUsage(**CALL, input_tokens=5, output_tokens=5), idempotency_key="k"
        )

    assert (await history.get_token_statistics()).total_tokens == 10


async def test_an_empty_store_has_empty_statistics(history: AsyncHistoryManager) -> None:
    assert of_tokens(await history.get_token_statistics()) == token_sums([])
    assert of_costs(await history.get_cost_statistics()) == (0, 0, {})
    assert of_llm(await history.get_llm_statistics()) == llm_sums([])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    "options", [{"since": "yesterday"}, {"until": "2024-13-01"}, {"group_by": "colour"}]
)
async def test_a_filter_that_means_nothing_is_refused(
    history: AsyncHistoryManager, kind: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidQueryError):
        await getattr(history, KINDS[kind][0])(**options)
