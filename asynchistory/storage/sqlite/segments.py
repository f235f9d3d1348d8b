"""Where the records of a session are: its own, and those of the sessions that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from asynchistory.storage.sqlite.sql import rows

#: A fork of a fork of ... rests on at most so many sessions; the next one copies.
MAX_DEPTH = 16
#: The body as bytes, not text: damaged UTF-8 must not fail the whole read.
COLUMNS = "r.seq, r.type, r.ts, r.id, CAST(r.body AS BLOB), r.crc"


class Segment(NamedTuple):
    """Records ``low`` < seq <= ``high``, stored under the session ``sid``."""

    sid: int
    low: int
    high: int


def segments(db: apsw.Connection, sid: int, low: int, high: int) -> list[Segment]:
    """The segments of the records ``low`` < seq <= ``high`` of a session, in order of seq."""
    found: list[Segment] = []
    base: int | None = sid
    while base is not None and low < high:
        ((lower, base_seq),) = rows(
            db, "SELECT base, base_seq FROM sessions WHERE sid = ?", (base,)
        )
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
    limit: int = -1,
    offset: int = 0,
) -> list[Any]:
    """Rows of the segments' records that ``where`` finds, in order of seq.

    Segment by segment, so that SQLite reads no further than the limit.
    """
    if not places:
        return []
    select = (
        f"SELECT {COLUMNS} FROM records r WHERE r.sid = ? AND r.seq > ? AND r.seq <= ? AND {where}"
    )
    return rows(
        db,
        " UNION ALL ".join([select] * len(places))
        + f" ORDER BY 1 {'DESC' if backwards else 'ASC'} LIMIT ? OFFSET ?",
        (*(value for place in places for value in (*place, *values)), limit, offset),
    )
