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
    "model": "c.model",
    "provider": "c.provider",
    "day": "c.day",
    "session": "s.id",
    "user": "coalesce(s.user_id, '')",
}
#: A sum of 1e-12 units can pass 64 bits; two sums of its halves cannot.
_HALF = 1_000_000

S = TypeVar("S", TokenStatistics, LLMStatistics)


def tokens(db: apsw.Connection, query: StatisticsQuery) -> TokenStatistics:
    """See :meth:`asynchistory.storage.port.Storage.token_statistics`."""
    sums = ", ".join(f"coalesce(sum(c.{name}), 0)" for name in USAGE_FIELDS)
    known = "count(*) FILTER (WHERE c.usage_rank)"
    unknown = "count(*) FILTER (WHERE NOT c.usage_rank)"
    select = f"{known}, {unknown}, {sums}"

    def build(row: tuple[Any, ...]) -> TokenStatistics:
        return TokenStatistics(
            calls=row[0], unknown_calls=row[1], **dict(zip(USAGE_FIELDS, row[2:], strict=True))
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
    halves = ", ".join(
        f"sum(c.{name} / {_HALF}), sum(c.{name} % {_HALF})"
        for name in ("input_cost", "output_cost", "total_cost")
    )
    select = f"c.currency, count(c.total_cost), count(*) - count(c.total_cost), {halves}"
    found: dict[str, CostStatistics] = {}
    for key, currency, known, unknown, *sums in _rows(db, query, select, group_by, "c.currency"):
        name = _name(group_by, key)
        before = found.get(name, CostStatistics())
        amounts = {} if currency is None else {currency: _amounts(sums)}
        found[name] = CostStatistics(
            calls=before.calls + known,
            unknown_calls=before.unknown_calls + unknown,
            currencies={**before.currencies, **amounts},
        )
    return found


def _amounts(sums: list[int | None]) -> Amounts:
    units = [
        None if high is None or low is None else high * _HALF + low
        for high, low in zip(sums[::2], sums[1::2], strict=True)
    ]
    return Amounts(
        input_cost=from_units(units[0]),
        output_cost=from_units(units[1]),
        total_cost=from_units(units[2]),
    )


def llm(db: apsw.Connection, query: StatisticsQuery) -> LLMStatistics:
    """See :meth:`asynchistory.storage.port.Storage.llm_statistics`."""
    select = (
        "coalesce(sum(c.requested), 0), coalesce(sum(c.responded), 0), "
        "avg(c.response_us), max(c.response_us), avg(c.first_token_us)"
    )
    reasons: dict[str | None, dict[str, int]] = {}
    for group_by in {None, query.group_by}:
        counted = _rows(db, query, "c.finish_reason, count(*)", group_by, "c.finish_reason")
        for key, reason, number in counted:
            if reason is not None:
                name = None if group_by is None else _name(group_by, key)
                reasons.setdefault(name, {})[reason] = number

    def build(name: str | None, row: tuple[Any, ...]) -> LLMStatistics:
        return LLMStatistics(
            requests=row[0],
            responses=row[1],
            mean_response_time=_seconds(row[2]),
            max_response_time=_seconds(row[3]),
            mean_time_to_first_token=_seconds(row[4]),
            finish_reasons=reasons.get(name, {}),
        )

    return _grouped(
        query,
        build(None, _rows(db, query, select, None)[0]),
        {key: build(key, rest) for key, rest in _groups(db, query, select)},
    )


def _grouped(query: StatisticsQuery, total: S, groups: dict[str, S]) -> S:
    return msgspec.structs.replace(total, groups=groups) if query.group_by else total


def _groups(
    db: apsw.Connection, query: StatisticsQuery, select: str
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if query.group_by is not None:
        for key, *rest in _rows(db, query, select, query.group_by):
            yield _name(query.group_by, key), tuple(rest)


def _rows(
    db: apsw.Connection, query: StatisticsQuery, select: str, group_by: str | None, also: str = ""
) -> list[Any]:
    """Rows of ``select``, each behind its group's key where there are groups."""
    where, values = ["true"], list[Any]()
    for sql, value in (
        ("s.id = ?", query.session_id),
        ("s.user_id = ?", query.user_id),
        ("c.model = ?", query.model),
        ("c.day >= ?", query.since and day_number(query.since)),
        ("c.day <= ?", query.until and day_number(query.until)),
    ):
        if value is not None:
            where.append(sql)
            values.append(value)
    key = _KEYS[group_by] if group_by else "''"
    names = [name for name in (key if group_by else "", also) if name]
    if also or group_by:
        select = f"{key}, {select}"
    grouping = f"GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    return rows(
        db,
        f"SELECT {select} FROM calls c JOIN sessions s USING(sid) "
        f"WHERE {' AND '.join(where)} {grouping}",
        values,
    )


def _name(group_by: str | None, key: Any) -> str:
    return day_name(key) if group_by == "day" else str(key)


def _seconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1_000_000
