"""Statistics, against sums made here from the records themselves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
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

pytestmark = pytest.mark.anyio

TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
OWNERS = {"a": "ann", "b": "bob", "c": None}
GROUPS = ("model", "provider", "day", "session", "user")
FIRST_DAY = datetime(2024, 2, 28, 22, tzinfo=UTC)


class Call(dict[str, Any]):
    """One model call, as this test knows it: the truth that the store has to find."""

    def records(self, draw: random.Random) -> list[AnyRecord]:
        made: list[AnyRecord] = []
        base = {key: self[key] for key in ("request_id", "provider", "model", "timestamp")}
        if self["requested"]:
            made.append(LLMRequest(**base))
        if self["responded"]:
            # A response may name a dated variant of the model; the request's name counts.
            model = self["model"] + ("-2024-08-06" if self["requested"] else "")
            made.append(
                LLMResponse(
                    **{**base, "model": model},
                    finish_reason=self["finish_reason"],
                    response_time=self["response_time"],
                    time_to_first_token=self["first_token"],
                    usage=self["response_usage"],
                )
            )
        if self["usage"] is not None:
            if draw.random() < 0.3:  # counted again later: the newest is right
                made.append(TokenUsage(**base, input_tokens=999_999, output_tokens=999_999))
            made.append(TokenUsage(**base, **self["usage"]))
        if self["cost"] is not None:
            if draw.random() < 0.3:
                made.append(Cost(**base, total_cost=Decimal(999), currency="XXX"))
            made.append(Cost(**base, **self["cost"]))
        return made

    @property
    def tokens(self) -> dict[str, int | None] | None:
        if self["usage"] is not None:
            return self["usage"]
        usage = self["response_usage"] if self["responded"] else None
        return None if usage is None else {name: getattr(usage, name) for name in TOKENS}

    @property
    def day(self) -> str:
        return str(self["timestamp"].date())

    def group(self, group_by: str) -> str:
        if group_by == "day":
            return self.day
        return (self["user"] or "") if group_by == "user" else self[group_by]


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


def a_call(draw: random.Random, number: int) -> Call:
    session = draw.choice(sorted(OWNERS))
    provider, model = draw.choice([("openai", "gpt-4o"), ("openai", "o3"), ("anthropic", "opus")])
    responded = draw.random() < 0.8
    return Call(
        session=session,
        user=OWNERS[session],
        request_id=f"r{number}",
        provider=provider,
        model=model,
        timestamp=FIRST_DAY + timedelta(hours=draw.randrange(72)),
        requested=not responded or draw.random() < 0.7,
        responded=responded,
        finish_reason=draw.choice([None, "stop", "length"]),
        response_time=draw.choice([None, draw.randrange(1, 9000) / 1000]),
        first_token=draw.choice([None, draw.randrange(1, 900) / 1000]),
        response_usage=Usage(**a_usage(draw)) if draw.random() < 0.5 else None,
        usage=a_usage(draw) if draw.random() < 0.5 else None,
        cost=a_cost(draw) if draw.random() < 0.6 else None,
    )


@pytest.fixture
async def calls(history: AsyncHistoryManager) -> list[Call]:
    """120 calls, their records of all sessions shuffled and appended in batches of any size."""
    draw = random.Random(7)
    calls = [a_call(draw, number) for number in range(120)]
    for session, owner in OWNERS.items():
        await history.create_session(session, user_id=owner)
    queues = [(call["session"], call.records(draw)) for call in calls]
    while queues:
        index = draw.randrange(len(queues))
        session, records = queues[index]
        size = draw.randint(1, len(records))
        await history.append(session, *records[:size])
        queues[index] = (session, records[size:])
        if not queues[index][1]:
            del queues[index]
    await history.record_message("a", "user", "not a call")
    return calls


def token_sums(calls: Iterable[Call]) -> dict[str, int]:
    sums: Counter[str] = Counter(dict.fromkeys(("calls", "unknown_calls", *TOKENS), 0))
    for call in calls:
        tokens = call.tokens
        sums["calls" if tokens else "unknown_calls"] += 1
        for name, value in (tokens or {}).items():
            sums[name] += value or 0
        if tokens and tokens["total_tokens"] is None:
            sums["total_tokens"] += tokens["input_tokens"] + tokens["output_tokens"]
    return dict(sums)


def cost_sums(calls: Iterable[Call]) -> tuple[int, int, dict[str, tuple[Any, ...]]]:
    known = unknown = 0
    sums: dict[str, list[Decimal | None]] = {}
    for call in calls:
        cost = call["cost"] or {}
        first, second = cost.get("input_cost"), cost.get("output_cost")
        total = cost.get("total_cost")
        if total is None and first is not None and second is not None:
            total = first + second
        known += total is not None
        unknown += total is None
        if cost:
            entry = sums.setdefault(cost["currency"], [None] * 3)
            for index, amount in enumerate((first, second, total)):
                if amount is not None:
                    entry[index] = (entry[index] or 0) + amount
    return known, unknown, {currency: tuple(entry) for currency, entry in sums.items()}


def mean(values: list[float]) -> float | None:
    return pytest.approx(sum(values) / len(values)) if values else None


def llm_sums(calls: Iterable[Call]) -> dict[str, Any]:
    done = [call for call in calls if call["responded"]]
    times = [call["response_time"] for call in done if call["response_time"] is not None]
    first = [call["first_token"] for call in done if call["first_token"] is not None]
    return {
        "requests": sum(call["requested"] for call in calls),
        "responses": len(done),
        "mean_response_time": mean(times),
        "max_response_time": pytest.approx(max(times)) if times else None,
        "mean_time_to_first_token": mean(first),
        "finish_reasons": dict(Counter(c["finish_reason"] for c in done if c["finish_reason"])),
    }


def of_tokens(found: Any) -> dict[str, int]:
    return {name: getattr(found, name) for name in ("calls", "unknown_calls", *TOKENS)}


def of_costs(found: Any) -> tuple[int, int, dict[str, tuple[Any, ...]]]:
    amounts = {
        currency: (amount.input_cost, amount.output_cost, amount.total_cost)
        for currency, amount in found.currencies.items()
    }
    return found.calls, found.unknown_calls, amounts


def of_llm(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in llm_sums([])}


KINDS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tokens": ("get_token_statistics", of_tokens, token_sums),
    "costs": ("get_cost_statistics", of_costs, cost_sums),
    "llm": ("get_llm_statistics", of_llm, llm_sums),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_grouping_equals_the_sum_over_the_calls(
    history: AsyncHistoryManager, calls: list[Call], kind: str
) -> None:
    method, shape, expected = KINDS[kind]

    for group_by in GROUPS:
        found = await getattr(history, method)(group_by=group_by)
        groups: dict[str, list[Call]] = {}
        for call in calls:
            groups.setdefault(call.group(group_by), []).append(call)
        assert shape(found) == expected(calls)
        assert {key: shape(group) for key, group in found.groups.items()} == {
            key: expected(group) for key, group in groups.items()
        }
    assert (await getattr(history, method)(group_by=None)).groups == {}
    assert set((await getattr(history, method)()).groups) == {"gpt-4o", "o3", "opus"}


FILTERS: list[tuple[dict[str, Any], Callable[[Call], bool]]] = [
    ({"session_id": "b"}, lambda call: call["session"] == "b"),
    ({"user_id": "ann"}, lambda call: call["user"] == "ann"),
    ({"model": "o3"}, lambda call: call["model"] == "o3"),
    ({"since": "2024-02-29"}, lambda call: call.day >= "2024-02-29"),
    ({"until": "2024-02-29"}, lambda call: call.day <= "2024-02-29"),
    ({"since": "2024-03-01", "until": "2024-03-01"}, lambda call: call.day == "2024-03-01"),
    (
        {"session_id": "a", "model": "gpt-4o", "since": "2024-02-29"},
        lambda call: (
            (call["session"], call["model"]) == ("a", "gpt-4o") and call.day >= "2024-02-29"
        ),
    ),
    ({"session_id": "none"}, lambda call: False),
    ({"user_id": "bob", "session_id": "a"}, lambda call: False),
    ({"since": "1970-01-01"}, lambda call: True),
    ({"until": "1970-01-01"}, lambda call: False),
]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("number", range(len(FILTERS)))
async def test_every_filter_equals_the_sum_over_the_calls(
    history: AsyncHistoryManager, calls: list[Call], kind: str, number: int
) -> None:
    method, shape, expected = KINDS[kind]
    options, wanted = FILTERS[number]
    session_id = {**options}.pop("session_id", None)
    rest = {key: value for key, value in options.items() if key != "session_id"}

    found = await getattr(history, method)(session_id, **rest)

    assert shape(found) == expected([call for call in calls if wanted(call)])


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
