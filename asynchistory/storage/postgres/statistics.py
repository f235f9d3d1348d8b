"""The three statistics, computed by the database over its table of calls."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, TypeVar

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
from asynchistory.storage.postgres.arrays import stored, unstored
from asynchistory.storage.postgres.sql import Statements

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


async def tokens(db: Statements, query: StatisticsQuery) -> TokenStatistics:
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
        build((await _rows(db, query, select, None))[0]),
        {key: build(rest) for key, rest in await _groups(db, query, select)},
    )


async def costs(db: Statements, query: StatisticsQuery) -> CostStatistics:
    """See :meth:`asynchistory.storage.port.Storage.cost_statistics`."""
    total = await _costs(db, query, None)
    groups = await _costs(db, query, query.group_by) if query.group_by else {}
    return msgspec.structs.replace(total.get("", CostStatistics()), groups=groups)


async def _costs(
    db: Statements, query: StatisticsQuery, group_by: str | None
) -> dict[str, CostStatistics]:
    amounts = [f"{name}_{half}" for name in _AMOUNTS for half in ("known", "high", "low")]
    select = "r.currency, " + _sums("total_known", "calls", *amounts)
    found: dict[str, CostStatistics] = {}
    for key, currency, known, calls, *sums in await _rows(
        db, query, select, group_by, "r.currency"
    ):
        name = _name(group_by, key)
        before = found.get(name, CostStatistics())
        amount = {unstored(currency): _amounts(sums)} if currency and calls else {}
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


async def llm(db: Statements, query: StatisticsQuery) -> LLMStatistics:
    """See :meth:`asynchistory.storage.port.Storage.llm_statistics`."""
    slowest = _SLOWEST
    if _source(query, by_user=False) != "rollup":
        slowest = "max(CASE WHEN r.response_known > 0 THEN r.response_us END)"
    times = ("response_us", "response_known", "first_token_us", "first_token_known")
    select = f"{slowest}, {_sums('requested', 'responded', *times)}"
    reasons: dict[str | None, dict[str, int]] = {}
    for group_by in {None, query.group_by}:
        counted = await _rows(
            db, query, "r.reason, sum(r.calls)::bigint", group_by, "r.reason", by_user=False
        )
        for key, reason, number in counted:
            if reason and number:
                name = None if group_by is None else _name(group_by, key)
                reasons.setdefault(name, {})[unstored(reason)] = number

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
        build(None, (await _rows(db, query, select, None, by_user=False))[0]),
        {key: build(key, rest) for key, rest in await _groups(db, query, select, by_user=False)},
    )


def _sums(*names: str) -> str:
    return ", ".join(f"coalesce(sum(r.{name}), 0)::bigint" for name in names)


def _grouped(query: StatisticsQuery, total: S, groups: dict[str, S]) -> S:
    return msgspec.structs.replace(total, groups=groups) if query.group_by else total


async def _groups(
    db: Statements, query: StatisticsQuery, select: str, *, by_user: bool = True
) -> list[tuple[str, tuple[Any, ...]]]:
    if query.group_by is None:
        return []
    found = await _rows(db, query, select, query.group_by, by_user=by_user)
    named = [(_name(query.group_by, key), tuple(rest)) for key, *rest in found]
    return sorted(named, key=itemgetter(0))


def _source(query: StatisticsQuery, by_user: bool) -> str:
    """The sums a day where they can answer, else the calls themselves.

    ``by_user``: whether the sums a day can answer for single users too.
    """
    of_session = query.session_id is not None or query.group_by == "session"
    of_user = query.user_id is not None or query.group_by == "user"
    return "call_sums" if of_session or (of_user and not by_user) else "rollup"


async def _rows(
    db: Statements,
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
        ("r.session = %s", query.session_id),
        ("r.scope = 'u' || %s::text", query.user_id),
        ("r.model = %s", query.model and stored(query.model)),
        ("r.day >= %s", query.since and day_number(query.since)),
        ("r.day <= %s", query.until and day_number(query.until)),
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
    grouping = f"GROUP BY {', '.join(names)} HAVING sum(r.calls) <> 0" if names else ""
    return await db.rows(
        f"SELECT {select} FROM {source} r WHERE {' AND '.join(where)} {grouping}", values
    )


def _name(group_by: str | None, key: Any) -> str:
    return day_name(key) if group_by == "day" else unstored(str(key))


def _mean(microseconds: int, count: int) -> float | None:
    return microseconds / count / 1_000_000 if count else None
