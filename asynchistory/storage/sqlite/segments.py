"""Where the records of a session are: its own, and those of the sessions that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from asynchistory.storage.sqlite.sql import rows, scalar

#: The body as bytes, not text: damaged UTF-8 must not fail the whole read.
COLUMNS = "r.seq, r.type, r.ts, r.id, CAST(r.body AS BLOB), r.crc"


_ALL = 2**62


class Segment(NamedTuple):
    """Records ``low`` < seq <= ``high``, stored under the session ``sid``."""

    sid: int
    low: int
    high: int


def segments(db: apsw.Connection, sid: int, low: int, high: int) -> list[Segment]:
    """The segments of the records ``low`` < seq <= ``high`` of a session, in order of seq."""
    found: list[Segment] = []
    base: int | None = sid
    seen: set[int] = set()  # in a damaged file sessions may rest on each other
    while base is not None and low < high and base not in seen:
        seen.add(base)
        rest = rows(db, "SELECT base, base_seq FROM sessions WHERE sid = ?", (base,))
        if not rest:
            break
        lower, base_seq = rest[0]
        if base_seq < high:
            found.append(Segment(base, max(low, base_seq), high))
        base, high = lower, min(high, base_seq)
    found.reverse()
    return found


def select_records(
    db: apsw.Connection,
    places: Sequence[Segment],
    *,
    where: str = "true",
    values: Sequence[Any] = (),
    backwards: bool = False,
    limit: int = _ALL,
    offset: int = 0,
) -> list[Any]:
    """Rows of the segments' records that ``where`` finds, in order of seq.

    Segment by segment, so that SQLite reads no further than the limit.
    """
    sql = (
        f"SELECT {COLUMNS} FROM records r WHERE r.sid = ? AND r.seq > ? AND r.seq <= ? AND {where} "
        f"ORDER BY r.seq {'DESC' if backwards else 'ASC'} LIMIT ? OFFSET ?"
    )
    found: list[Any] = []
    for place in reversed(places) if backwards else places:
        some = rows(db, sql, (*place, *values, limit - len(found), offset))
        if offset:
            # All of this segment was passed over, or all that had to be.
            offset = 0 if some else offset - count_records(db, [place], where, values)
        found += some
        if len(found) >= limit:
            break
    return found


def count_records(
    db: apsw.Connection, places: Sequence[Segment], where: str, values: Sequence[Any]
) -> int:
    """How many of the segments' records ``where`` finds."""
    sql = f"SELECT count(*) FROM records r WHERE r.sid = ? AND r.seq > ? AND r.seq <= ? AND {where}"
    return sum(scalar(db, sql, (*place, *values)) for place in places)
