"""The three statistics, computed by the database over its table of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import apsw
import msgspec

from asynchistory.codec import from_units
from asynchistory.queries import (
    Amounts,
    CostStatistics,
    LLMStatistics,
    StatisticsQuery,
    TokenStatistics,
)
from asynchistory.storage.calls import USAGE_FIELDS, day_name, day_number
from asynchistory.storage.sqlite.sql import rows

_KEYS = {
    "model": "r.model",
    "provider": "r.provider",
    "day": "r.day",
    "session": "r.session",
    "user": "substr(r.scope, 2)",
}
#: Money is summed in two halves, in units of 1e-12: one sum could pass 64 bits.
_HALF = 1_000_000
#: The slowest response behind a row of ``rollup``, by the index on calls.
_SLOWEST = (
    "max((SELECT max(c.response_us) FROM calls c WHERE c.day = r.day "
    "AND c.provider = r.provider AND c.model = r.model))"
)

S = TypeVar("S", TokenStatistics, LLMStatistics)


def tokens(db: apsw.Connection, query: StatisticsQuery) -> TokenStatistics:
    """See :meth:`asynchistory.storage.port.Storage.token_statistics`."""
    select = _sums("known", "calls", *USAGE_FIELDS)

    def build(row: tuple[Any, ...]) -> TokenStatistics:
        return TokenStatistics(
            calls=row[0],
            unknown_calls=row[1] - row[0],
            **dict(zip(USAGE_FIELDS, row[2:], strict=True)),
        )

    return _grouped(
        query,
        build(_rows(db, query, select, None)[0]),
        {key: build(rest) for key, rest in _groups(db, query, select)},
    )


def costs(db: apsw.Connection, query: StatisticsQuery) -> CostStatistics:
    """See :meth:`asynchistory.storage.port.Storage.cost_statistics`."""
    total = _costs(db, query, None)
    groups = _costs(db, query, query.group_by) if query.group_by else {}
    return msgspec.structs.replace(total.get("", CostStatistics()), groups=groups)


def _costs(
    db: apsw.Connection, query: StatisticsQuery, group_by: str | None
) -> dict[str, CostStatistics]:
    amounts = [f"{name}_{half}" for name in _AMOUNTS for half in ("known", "high", "low")]
    select = "r.currency, " + _sums("total_known", "calls", *amounts)
    found: dict[str, CostStatistics] = {}
    for key, currency, known, calls, *sums in _rows(db, query, select, group_by, "r.currency"):
        name = _name(group_by, key)
        before = found.get(name, CostStatistics())
        amount = {currency: _amounts(sums)} if currency else {}
        found[name] = CostStatistics(
            calls=before.calls + known,
            unknown_calls=before.unknown_calls + calls - known,
            currencies={**before.currencies, **amount},
        )
    return found


_AMOUNTS = ("input", "output", "total")


def _amounts(sums: list[int]) -> Amounts:
    units = [
        high * _HALF + low if known else None
        for known, high, low in zip(sums[::3], sums[1::3], sums[2::3], strict=True)
    ]
    costs = {f"{name}_cost": from_units(unit) for name, unit in zip(_AMOUNTS, units, strict=True)}
    return Amounts(**costs)


def llm(db: apsw.Connection, query: StatisticsQuery) -> LLMStatistics:
    """See :meth:`asynchistory.storage.port.Storage.llm_statistics`."""
    slowest = _SLOWEST
    if _source(query, by_user=False) != "rollup":
        slowest = "max(CASE WHEN r.response_known THEN r.response_us END)"
    times = ("response_us", "response_known", "first_token_us", "first_token_known")
    select = f"{slowest}, {_sums('requested', 'responded', *times)}"
    reasons: dict[str | None, dict[str, int]] = {}
    for group_by in {None, query.group_by}:
        counted = _rows(db, query, "r.reason, sum(r.calls)", group_by, "r.reason", by_user=False)
        for key, reason, number in counted:
            if reason:
                name = None if group_by is None else _name(group_by, key)
                reasons.setdefault(name, {})[reason] = number

    def build(name: str | None, row: tuple[Any, ...]) -> LLMStatistics:
        most, requests, responses, response_us, timed, first_us, first = row
        return LLMStatistics(
            requests=requests,
            responses=responses,
            mean_response_time=_mean(response_us, timed),
            max_response_time=None if most is None else most / 1_000_000,
            mean_time_to_first_token=_mean(first_us, first),
            finish_reasons=reasons.get(name, {}),
        )

    return _grouped(
        query,
        build(None, _rows(db, query, select, None, by_user=False)[0]),
        {key: build(key, rest) for key, rest in _groups(db, query, select, by_user=False)},
    )


def _sums(*names: str) -> str:
    return ", ".join(f"coalesce(sum(r.{name}), 0)" for name in names)


def _grouped(query: StatisticsQuery, total: S, groups: dict[str, S]) -> S:
    return msgspec.structs.replace(total, groups=groups) if query.group_by else total


def _groups(
    db: apsw.Connection, query: StatisticsQuery, select: str, *, by_user: bool = True
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if query.group_by is not None:
        for key, *rest in _rows(db, query, select, query.group_by, by_user=by_user):
            yield _name(query.group_by, key), tuple(rest)


def _source(query: StatisticsQuery, by_user: bool) -> str:
    """The sums a day where they can answer, else the calls themselves.

    ``by_user``: whether the sums a day can answer for single users too.
    """
    of_session = query.session_id is not None or query.group_by == "session"
    of_user = query.user_id is not None or query.group_by == "user"
    return "call_sums" if of_session or (of_user and not by_user) else "rollup"


def _rows(
    db: apsw.Connection,
    query: StatisticsQuery,
    select: str,
    group_by: str | None,
    also: str = "",
    *,
    by_user: bool = True,
) -> list[Any]:
    """Rows of ``select``, each behind its group's key where there are groups."""
    source = _source(query, by_user)
    where, values = ["true"], list[Any]()
    for sql, value in (
        ("r.session = ?", query.session_id),
        ("r.scope = 'u' || ?", query.user_id),
        ("r.model = ?", query.model),
        ("r.day >= ?", query.since and day_number(query.since)),
        ("r.day <= ?", query.until and day_number(query.until)),
    ):
        if value is not None:
            where.append(sql)
            values.append(value)
    if source == "rollup" and query.user_id is None:
        where.append("r.scope <> ''" if group_by == "user" else "r.scope = ''")
    key = _KEYS[group_by] if group_by else "''"
    names = [name for name in (key if group_by else "", also) if name]
    if also or group_by:
        select = f"{key}, {select}"
    grouping = f"GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    return rows(
        db, f"SELECT {select} FROM {source} r WHERE {' AND '.join(where)} {grouping}", values
    )


def _name(group_by: str | None, key: Any) -> str:
    return day_name(key) if group_by == "day" else str(key)


def _mean(microseconds: int, count: int) -> float | None:
    return microseconds / count / 1_000_000 if count else None
