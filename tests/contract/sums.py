"""Statistics as tests know them: sums over calls that are made from records one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    LLMRequest,
    LLMResponse,
    StoredRecord,
    TokenUsage,
    Usage,
)

TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
GROUPS = ("model", "provider", "day", "session", "user")

Amounts = tuple[Decimal | None, Decimal | None, Decimal | None]


@dataclass
class Call:
    """What is true of one model call. None is unknown."""

    session: str
    user: str | None
    provider: str
    model: str
    day: str
    requested: bool = False
    responded: bool = False
    finish_reason: str | None = None
    response_time: float | None = None
    first_token: float | None = None
    tokens: dict[str, int | None] | None = None
    currency: str | None = None
    cost: Amounts = (None, None, None)
    counted: bool = field(default=False, repr=False)  # its tokens are a token_usage record's

    def group(self, group_by: str) -> str:
        return (self.user or "") if group_by == "user" else getattr(self, group_by)


def calls_of(session: str, user: str | None, records: Iterable[StoredRecord]) -> list[Call]:
    """The calls that a session's own records describe."""
    calls: dict[str, Call] = {}
    for record in records:
        if not isinstance(record, (LLMRequest, LLMResponse, TokenUsage, Cost)):
            continue
        day = str(record.timestamp.astimezone(UTC).date())
        new = Call(session, user, record.provider, record.model, day)
        call = calls.setdefault(record.request_id, new)
        call.day = min(call.day, day)
        _describe(call, record)
    return list(calls.values())


def _describe(call: Call, record: LLMRequest | LLMResponse | TokenUsage | Cost) -> None:
    match record:
        case LLMRequest():
            call.requested = True
            call.provider, call.model = record.provider, record.model
        case LLMResponse():
            call.responded |= record.finish_reason != "error"
            call.finish_reason = record.finish_reason or call.finish_reason
            if record.response_time is not None:
                call.response_time = record.response_time
            if record.time_to_first_token is not None:
                call.first_token = record.time_to_first_token
            if _known(record.usage) and not call.counted:
                call.tokens = _tokens(record.usage)
        case TokenUsage():
            if _known(record):
                call.tokens, call.counted = _tokens(record), True
        case Cost():
            costs = (record.input_cost, record.output_cost, record.total_cost)
            call.currency, call.cost = record.currency, _with_total(costs)


def _known(usage: Usage | TokenUsage | None) -> bool:
    return usage is not None and any(getattr(usage, name) is not None for name in TOKENS[:3])


def _tokens(usage: Any) -> dict[str, int | None]:
    tokens = {name: getattr(usage, name) for name in TOKENS}
    *_, tokens["total_tokens"] = _with_total([tokens[name] for name in TOKENS[:3]])
    return tokens


def _with_total(amounts: Iterable[Any]) -> Any:
    """A total that was not given, where both of its parts were."""
    first, second, total = amounts
    if total is None and first is not None and second is not None:
        total = first + second
    return first, second, total


# -- sums over calls, and the same shapes of what a manager answers


def token_sums(calls: Iterable[Call]) -> dict[str, int]:
    sums = Counter(dict.fromkeys(("calls", "unknown_calls", *TOKENS), 0))
    for call in calls:
        sums["unknown_calls" if call.tokens is None else "calls"] += 1
        for name, value in (call.tokens or {}).items():
            sums[name] += value or 0
    return dict(sums)


def cost_sums(calls: Iterable[Call]) -> tuple[int, int, dict[str, tuple[Any, ...]]]:
    known = unknown = 0
    sums: dict[str, list[Decimal | None]] = {}
    for call in calls:
        known += call.cost[2] is not None
        unknown += call.cost[2] is None
        if call.currency is not None:
            entry = sums.setdefault(call.currency, [None] * 3)
            for index, amount in enumerate(call.cost):
                if amount is not None:
                    entry[index] = (entry[index] or 0) + amount
    return known, unknown, {currency: tuple(entry) for currency, entry in sums.items()}


def mean(values: list[float]) -> Any:
    return pytest.approx(sum(values) / len(values)) if values else None


def llm_sums(calls: Iterable[Call]) -> dict[str, Any]:
    calls = list(calls)
    times = [call.response_time for call in calls if call.response_time is not None]
    return {
        "requests": sum(call.requested for call in calls),
        "responses": sum(call.responded for call in calls),
        "mean_response_time": mean(times),
        "max_response_time": pytest.approx(max(times)) if times else None,
        "mean_time_to_first_token": mean(
            [call.first_token for call in calls if call.first_token is not None]
        ),
        "finish_reasons": dict(Counter(call.finish_reason for call in calls if call.finish_reason)),
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


#: A kind of statistics: the method, the shape of its answer, and the sum that it must equal.
KINDS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tokens": ("get_token_statistics", of_tokens, token_sums),
    "costs": ("get_cost_statistics", of_costs, cost_sums),
    "llm": ("get_llm_statistics", of_llm, llm_sums),
}


async def assert_statistics(
    history: AsyncHistoryManager,
    calls: list[Call],
    kind: str,
    group_by: str | None,
    session_id: str | None = None,
    **options: Any,
) -> None:
    """Total and groups are the sums over these calls and no others."""
    method, shape, expected = KINDS[kind]
    found = await getattr(history, method)(session_id, group_by=group_by, **options)
    groups: dict[str, list[Call]] = {}
    if group_by is not None:
        for call in calls:
            groups.setdefault(call.group(group_by), []).append(call)
    assert shape(found) == expected(calls)
    assert {key: shape(group) for key, group in found.groups.items()} == {
        key: expected(group) for key, group in groups.items()
    }


async def assert_all_statistics(
    history: AsyncHistoryManager, calls: list[Call], **options: Any
) -> None:
    """Every kind and grouping is the sum over these calls, which are all that the filter finds."""
    for kind in KINDS:
        for group_by in (None, *GROUPS):
            await assert_statistics(history, calls, kind, group_by, **options)
