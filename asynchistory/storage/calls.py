"""Facts about model calls, taken from records: what statistics are made of.

One call is described by several records (request, response, usage, cost) with
one request id. A store keeps one row a call, merged from them, so that nothing
is counted twice:

- a request's model counts before a response's, which may name a dated variant;
- the usage of a ``token_usage`` record counts before the response's own, the
  newest of several counts;
- of several costs the newest counts;
- a call belongs to the day (UTC) of its first record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, NamedTuple

from asynchistory.codec import TYPE_CODES, Row, decode_body, to_units
from asynchistory.errors import InvalidQueryError
from asynchistory.records import Cost, LLMRequest, LLMResponse, Record, TokenUsage, Usage

_DAY_US = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()

#: The fields that a better usage, or a newer cost, replaces together.
USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
PRICE_FIELDS = ("currency", "input_cost", "output_cost", "total_cost")


#: The codes of the record types that describe calls.
CALL_TYPES = frozenset(
    TYPE_CODES[cls.record_type] for cls in (LLMRequest, LLMResponse, TokenUsage, Cost)
)


class CallFacts(NamedTuple):
    """What one record says of its call; None is what it does not say."""

    request: str
    provider: str
    model: str
    day: int  # days since 1970-01-01, UTC
    requested: int = 0
    responded: int = 0
    finish_reason: str | None = None
    response_us: int | None = None
    first_token_us: int | None = None
    usage_rank: int = 0  # 0 unknown, 1 from the response, 2 from a token_usage record
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    priced: int = 0
    currency: str | None = None
    input_cost: int | None = None  # 1e-12 units
    output_cost: int | None = None
    total_cost: int | None = None


def call_facts(records: Sequence[Record], rows: Sequence[Row]) -> tuple[CallFacts, ...]:
    """The facts in these records; ``rows`` are the same records as rows."""
    for row in rows:
        if row.type in CALL_TYPES:
            break
    else:
        return ()
    return tuple(
        _facts(record, row.timestamp // _DAY_US)
        for record, row in zip(records, rows, strict=True)
        if isinstance(record, (LLMRequest, LLMResponse, TokenUsage, Cost))
    )


def calls_in(stored: Iterable[tuple[int, int, bytes | str]]) -> dict[str, CallFacts]:
    """The calls that stored records (type, timestamp, body) describe, by request id.

    Damaged records, which say nothing that can be trusted, are passed over.
    """
    calls: dict[str, CallFacts] = {}
    for code, timestamp, body in stored:
        if code not in CALL_TYPES:
            continue
        with suppress(ValueError, RecursionError):
            record = decode_body(body)
            assert isinstance(record, (LLMRequest, LLMResponse, TokenUsage, Cost))
            facts = _facts(record, timestamp // _DAY_US)
            known = calls.get(facts.request)
            calls[facts.request] = facts if known is None else merge(known, facts)
    return calls


def _facts(record: LLMRequest | LLMResponse | TokenUsage | Cost, day: int) -> CallFacts:
    base = CallFacts(record.request_id, record.provider, record.model, day)
    if isinstance(record, LLMRequest):
        return base._replace(requested=1)
    if isinstance(record, LLMResponse):
        return base._replace(
            # A call that failed is recorded as a response that gives "error" for its end.
            responded=int(record.finish_reason != "error"),
            finish_reason=record.finish_reason or None,
            response_us=_us(record.response_time),
            first_token_us=_us(record.time_to_first_token),
            **_usage(record.usage, 1),
        )
    if isinstance(record, TokenUsage):
        return base._replace(**_usage(record, 2))
    return base._replace(
        priced=1,
        currency=record.currency,
        input_cost=to_units(record.input_cost),
        output_cost=to_units(record.output_cost),
        total_cost=to_units(_total(record.total_cost, record.input_cost, record.output_cost)),
    )


def _usage(usage: Usage | TokenUsage | None, rank: int) -> dict[str, Any]:
    if usage is None:
        return {}
    total = _total(usage.total_tokens, usage.input_tokens, usage.output_tokens)
    if total is None and usage.input_tokens is None and usage.output_tokens is None:
        return {}
    return {
        "usage_rank": rank,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": total,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _total(total: Any, first: Any, second: Any) -> Any:
    """A total that was not given, where its two halves were."""
    if total is None and first is not None and second is not None:
        return first + second
    return total


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)


def day_number(day: str) -> int:
    """``YYYY-MM-DD`` as days since 1970-01-01.

    Raises:
        InvalidQueryError: it is not such a day.
    """
    try:
        return date.fromisoformat(day).toordinal() - _EPOCH_DAY
    except (TypeError, ValueError):
        raise InvalidQueryError("a day is written YYYY-MM-DD") from None


def day_name(number: int) -> str:
    """The reverse of :func:`day_number`."""
    return date.fromordinal(number + _EPOCH_DAY).isoformat()


def merge(old: CallFacts, new: CallFacts) -> CallFacts:
    """One call's facts so far, with those of one more record. The SQL stores do the same in SQL."""
    changes: dict[str, Any] = {
        "day": min(old.day, new.day),
        "requested": max(old.requested, new.requested),
        "responded": max(old.responded, new.responded),
    }
    if new.requested:
        changes |= {"provider": new.provider, "model": new.model}
    for name in ("finish_reason", "response_us", "first_token_us"):
        if getattr(new, name) is not None:
            changes[name] = getattr(new, name)
    if new.usage_rank and new.usage_rank >= old.usage_rank:
        changes |= {name: getattr(new, name) for name in ("usage_rank", *USAGE_FIELDS)}
    if new.priced:
        changes |= {name: getattr(new, name) for name in ("priced", *PRICE_FIELDS)}
    return old._replace(**changes)
