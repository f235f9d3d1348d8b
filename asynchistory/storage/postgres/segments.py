"""Where the records of a session are: its own, and those of the sessions that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from asynchistory.storage.postgres.sql import Statements

#: A record as the codec takes it; its body is sent as bytes, which psycopg does not decode.
COLUMNS = "r.seq, r.type, r.ts, r.id, textsend(r.body) AS body, r.crc"
_ALL = 2**62
_CHAIN = """
WITH RECURSIVE chain(depth, sid, base, base_seq, high) AS (
    SELECT 0, s.sid, s.base, s.base_seq, %(high)s::bigint FROM sessions s WHERE s.sid = %(sid)s
    UNION ALL
    SELECT c.depth + 1, b.sid, b.base, b.base_seq, least(c.high, c.base_seq)
    FROM chain c JOIN sessions b ON b.sid = c.base
    WHERE c.base_seq > %(low)s AND c.depth < 100000
)
SELECT sid, greatest(base_seq, %(low)s), high FROM chain
WHERE greatest(base_seq, %(low)s) < high ORDER BY depth DESC
"""


class Segment(NamedTuple):
    """Records ``low`` < seq <= ``high``, stored under the session ``sid``."""

    sid: int
    low: int
    high: int


async def segments(db: Statements, sid: int, low: int, high: int) -> list[Segment]:
    """The segments of the records ``low`` < seq <= ``high`` of a session, in order of seq."""
    if low >= high:
        return []
    found = await db.rows(_CHAIN, {"sid": sid, "low": low, "high": high})
    return [Segment(*row) for row in found]


async def select_records(
    db: Statements,
    places: Sequence[Segment],
    *,
    where: str = "true",
    values: Sequence[Any] = (),
    backwards: bool = False,
    limit: int = _ALL,
    offset: int = 0,
    columns: str = COLUMNS,
) -> list[Any]:
    """Rows of the segments' records that ``where`` finds, in order of seq.

    Segment by segment, so that no more is read than the limit.
    """
    sql = (
        f"SELECT {columns} FROM records r WHERE r.sid = %s AND r.seq > %s AND r.seq <= %s "
        f"AND {where} ORDER BY r.seq {'DESC' if backwards else 'ASC'} LIMIT %s OFFSET %s"
    )
    found: list[Any] = []
    for place in reversed(places) if backwards else places:
        some = await db.rows(sql, (*place, *values, limit - len(found), offset))
        if offset:
            # All of this segment was passed over, or all that had to be.
            offset = 0 if some else offset - await count_records(db, [place], where, values)
        found += some
        if len(found) >= limit:
            break
    return found


async def count_records(
    db: Statements, places: Sequence[Segment], where: str, values: Sequence[Any]
) -> int:
    """How many of the segments' records ``where`` finds."""
    sql = (
        "SELECT count(*) FROM records r WHERE r.sid = %s AND r.seq > %s AND r.seq <= %s "
        f"AND {where}"
    )
    return sum([await db.scalar(sql, (*place, *values)) for place in places])
