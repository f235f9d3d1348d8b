"""The search of the PostgreSQL store: which records it reads, and in which order.

What matches is decided here, as in every store. PostgreSQL leaves out what cannot
match: a text of ASCII alone that lacks a piece of a word. All else is handed out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from asynchistory.codec import TYPE_CODES, decode_row, to_microseconds
from asynchistory.queries import MAX_PAGE, SearchHit, SearchQuery
from asynchistory.records import StoredRecord
from asynchistory.storage.hits import hits
from asynchistory.storage.postgres.arrays import stored
from asynchistory.storage.postgres.segments import COLUMNS, segments
from asynchistory.storage.postgres.sql import Statements
from asynchistory.storage.text import SEARCHED_TYPES, search_terms

#: Records that are read at first, and at most, at once.
_FIRST, _MOST = 100, 1_600
_PIECE = re.compile(r"[a-z0-9]+")
#: What an index can answer; the docs say how to make one.
_MAY_MATCH = (
    "(octet_length(r.body) <> char_length(r.body) "
    'OR lower(r.body COLLATE "C") LIKE ALL(%s::text[]))'
)


async def search(db: Statements, query: SearchQuery) -> list[SearchHit]:
    """See :meth:`asynchistory.storage.port.Storage.search`."""
    where, values = _conditions(query)
    found: list[SearchHit] = []
    every = query if query.order == "newest" else replace(query, order="newest", limit=MAX_PAGE)
    async with db.one_moment("SET LOCAL statement_timeout = 0"):
        if query.session_id is None:
            chunks = _of_store(db, query, where, values)
        else:
            chunks = _of_session(db, query, where, values)
        async with aclosing(chunks):
            async for records in chunks:
                found += hits(records, replace(every, limit=every.limit - len(found)))
                if len(found) >= every.limit and query.order == "newest":
                    break
                if query.order == "rank" and len(found) > 2 * query.limit:
                    found = _best(found, query)
    return found if query.order == "newest" else _best(found, query)


def _best(found: list[SearchHit], query: SearchQuery) -> list[SearchHit]:
    return hits([hit.record for hit in found], query)


def _conditions(query: SearchQuery) -> tuple[str, list[Any]]:
    names = SEARCHED_TYPES if query.record_types is None else query.record_types
    where = ["r.type = ANY(%s)"]
    values: list[Any] = [[TYPE_CODES[name] for name in names]]
    for moment, sign in ((query.start_time, ">="), (query.end_time, "<")):
        if moment is not None:
            where.append(f"r.ts {sign} %s")
            values.append(to_microseconds(moment))
    if query.role is not None:
        where.append("r.role = %s")
        values.append(stored(query.role))
    pieces = [
        max(found, key=len) for term in search_terms(query.text) if (found := _PIECE.findall(term))
    ]
    if pieces:
        where.append(_MAY_MATCH)
        values.append([f"%{piece}%" for piece in pieces])
    return " AND ".join(where), values


async def _of_store(
    db: Statements, query: SearchQuery, where: str, values: Sequence[Any]
) -> AsyncGenerator[list[StoredRecord], None]:
    """The last written first."""
    if query.user_id is not None:
        where, values = f"{where} AND s.user_id = %s", [*values, query.user_id]
    sql = (
        f"SELECT r.rid, s.id, {COLUMNS} FROM records r JOIN sessions s USING(sid) "
        f"WHERE r.rid < %s AND {where} ORDER BY r.rid DESC LIMIT %s"
    )
    last, size = 2**62, _FIRST
    while True:
        rows = await db.rows(sql, (last, *values, size))
        yield [decode_row(row[1], row[2:]) for row in rows]
        if len(rows) < size:
            return
        last, size = rows[-1][0], min(2 * size, _MOST)


async def _of_session(
    db: Statements, query: SearchQuery, where: str, values: Sequence[Any]
) -> AsyncGenerator[list[StoredRecord], None]:
    """The last seq first."""
    name = query.session_id
    assert name is not None
    found = await db.rows(
        "SELECT sid, seq FROM sessions WHERE id = %s AND (%s::text IS NULL OR user_id = %s)",
        (name, query.user_id, query.user_id),
    )
    places = await segments(db, found[0][0], 0, found[0][1]) if found else []
    sql = (
        f"SELECT {COLUMNS} FROM records r WHERE r.sid = %s AND r.seq > %s AND r.seq <= %s "
        f"AND {where} ORDER BY r.seq DESC LIMIT %s"
    )
    for sid, low, high in reversed(places):
        size = _FIRST
        while True:
            rows = await db.rows(sql, (sid, low, high, *values, size))
            yield [decode_row(name, row) for row in rows]
            if len(rows) < size:
                break
            high, size = rows[-1][0] - 1, min(2 * size, _MOST)
