"""Sums over calls and records in Python: what the SQL stores compute in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from asynchistory.codec import TYPE_CODES, from_units
from asynchistory.queries import (
    Amounts,
    CostStatistics,
    LLMStatistics,
    StatisticsQuery,
    TokenStatistics,
)
from asynchistory.records import Message
from asynchistory.storage.calls import USAGE_FIELDS, CallFacts, day_name, day_number
from asynchistory.storage.memory.homes import Home

S = TypeVar("S", TokenStatistics, CostStatistics, LLMStatistics)

_TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}


def statistics(
    homes: Iterable[Home], query: StatisticsQuery, total: Callable[[list[CallFacts]], S]
) -> S:
    """``total`` over the calls that the query selects, and over each of their groups."""
    everything: list[CallFacts] = []
    groups: dict[str, list[CallFacts]] = {}
    for home in homes:
        for call in home.calls.values():
            if _wanted(call, query):
                everything.append(call)
                if query.group_by:
                    groups.setdefault(_key(query.group_by, home, call), []).append(call)
    result = total(everything)
    return replace(result, groups={key: total(groups[key]) for key in sorted(groups)})


def _wanted(call: CallFacts, query: StatisticsQuery) -> bool:
    early = query.since is not None and call.day < day_number(query.since)
    late = query.until is not None and call.day > day_number(query.until)
    return not early and not late and query.model in (None, call.model)


def _key(group_by: str, home: Home, call: CallFacts) -> str:
    if group_by == "day":
        return day_name(call.day)
    if group_by in ("model", "provider"):
        return str(getattr(call, group_by))
    return home.session.id if group_by == "session" else home.session.user_id or ""


def count(homes: Iterable[Home]) -> dict[str, Any]:
    """Counts of records; those that sessions share count once."""
    places = {place: (home, seq) for home in homes for seq, (place, _) in enumerate(home.rows, 1)}
    records = [home.record(seq) for home, seq in places.values()]
    messages = [record for record in records if isinstance(record, Message)]
    types = Counter(home.rows[seq - 1][1].type for home, seq in places.values())
    return {
        "records": len(records),
        "record_types": {_TYPE_NAMES[code]: types[code] for code in sorted(types)},
        "roles": dict(sorted(Counter(message.role for message in messages).items())),
        "tool_calls": sum(len(message.tool_calls) for message in messages),
        "tool_results": sum(len(message.tool_results) for message in messages),
    }


def tokens(calls: list[CallFacts]) -> TokenStatistics:
    """See :meth:`asynchistory.storage.port.Storage.token_statistics`."""
    known = [call for call in calls if call.usage_rank]
    sums: dict[str, Any] = {
        name: sum(getattr(call, name) or 0 for call in known) for name in USAGE_FIELDS
    }
    return TokenStatistics(calls=len(known), unknown_calls=len(calls) - len(known), **sums)


def costs(calls: list[CallFacts]) -> CostStatistics:
    """See :meth:`asynchistory.storage.port.Storage.cost_statistics`."""
    known = sum(call.total_cost is not None for call in calls)
    sums: dict[str, list[int | None]] = {}
    for call in calls:
        if call.currency is not None:
            units = sums.setdefault(call.currency, [None, None, None])
            costs = (call.input_cost, call.output_cost, call.total_cost)
            for index, cost in enumerate(costs):
                if cost is not None:
                    units[index] = (units[index] or 0) + cost
    amounts = {
        currency: Amounts(
            input_cost=from_units(units[0]),
            output_cost=from_units(units[1]),
            total_cost=from_units(units[2]),
        )
        for currency, units in sorted(sums.items())
    }
    return CostStatistics(calls=known, unknown_calls=len(calls) - known, currencies=amounts)


def llm(calls: list[CallFacts]) -> LLMStatistics:
    """See :meth:`asynchistory.storage.port.Storage.llm_statistics`."""
    times = [call.response_us for call in calls if call.response_us is not None]
    first = [call.first_token_us for call in calls if call.first_token_us is not None]
    reasons = Counter(call.finish_reason for call in calls if call.finish_reason is not None)
    return LLMStatistics(
        requests=sum(call.requested for call in calls),
        responses=sum(call.responded for call in calls),
        mean_response_time=sum(times) / len(times) / 1e6 if times else None,
        max_response_time=max(times) / 1e6 if times else None,
        mean_time_to_first_token=sum(first) / len(first) / 1e6 if first else None,
        finish_reasons=dict(sorted(reasons.items())),
    )
