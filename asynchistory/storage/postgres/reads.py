"""What is read: most of it in one statement, which sees one moment without a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

from asynchistory.codec import TYPE_CODES, decode_rows, from_microseconds, to_microseconds
from asynchistory.errors import SessionNotFoundError
from asynchistory.queries import (
    HistoryPage,
    HistoryQuery,
    Session,
    SessionPage,
    SessionSummary,
    StoreCounts,
    Tail,
    Version,
)
from asynchistory.records import JSON
from asynchistory.storage.cursors import make_cursor, parse_cursor, seq_of
from asynchistory.storage.postgres.arrays import stored, unstored
from asynchistory.storage.postgres.segments import (
    COLUMNS,
    count_records,
    segments,
    select_records,
)
from asynchistory.storage.postgres.sql import Statements

_SESSION = (
    "SELECT s.id, s.user_id, s.title, s.metadata, s.created, s.updated, s.seq, s.epoch, "
    "p.id, s.fork_seq, s.expires, s.sid "
    "FROM sessions s LEFT JOIN sessions p ON p.sid = s.forked_from "
)
_TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}
_ALL = 2**62
#: The value of ``sessions.minute`` for a time.
MINUTE = "%s / 60000000"
_PLACE = "SELECT sid, epoch, seq FROM sessions WHERE id = %s"

#: The look-up of :meth:`asynchistory.storage.port.Storage.version`.
VERSION = "SELECT epoch, seq FROM sessions WHERE id = %s"
_TAIL = (
    f"SELECT {COLUMNS}, s.epoch, s.seq, s.base_seq FROM sessions s LEFT JOIN records r "
    "ON r.sid = s.sid AND r.seq > s.seq - %s WHERE s.id = %s ORDER BY r.seq"
)


async def version(db: Statements, session_id: str) -> Version | None:
    """See :meth:`asynchistory.storage.port.Storage.version`."""
    found = await db.repeated(VERSION, (session_id,))
    return Version(*found[0]) if found else None


async def tail(db: Statements, session_id: str, limit: int) -> Tail | None:
    """See :meth:`asynchistory.storage.port.Storage.tail`."""
    found = await db.repeated(_TAIL, (limit, session_id))
    if not found:
        return None
    first, *_, epoch, seq, base_seq = found[0]
    if base_seq and (first is None or len(found) < min(limit, seq)):
        return await _long_tail(db, session_id, limit)
    newest = [] if first is None else found
    return Tail(Version(epoch, seq), tuple(decode_rows(session_id, newest)))


async def _long_tail(db: Statements, session_id: str, limit: int) -> Tail | None:
    """The tail of a session that reaches into what it rests on."""
    async with db.one_moment():
        found = await db.rows(_PLACE, (session_id,))
        if not found:
            return None
        sid, epoch, seq = found[0]
        newest = await select_records(db, await segments(db, sid, max(0, seq - limit), seq))
    return Tail(Version(epoch, seq), tuple(decode_rows(session_id, newest)))


async def page(db: Statements, query: HistoryQuery) -> HistoryPage:
    """See :meth:`asynchistory.storage.port.Storage.read`."""
    found = None if query.with_total else await _short_page(db, query)
    return await _long_page(db, query) if found is None else found


async def _short_page(db: Statements, query: HistoryQuery) -> HistoryPage | None:
    """A page of what a session has itself, in one statement; None if it has to be looked for."""
    backwards = query.newest or query.before is not None
    low = 0 if query.after is None else parse_cursor(query.after)[1]
    high = _ALL if query.before is None else parse_cursor(query.before)[1] - 1
    where, values = _filters(query)
    found = await db.rows(
        "SELECT s.epoch, s.base_seq, r.* FROM sessions s LEFT JOIN LATERAL ("
        f"SELECT {COLUMNS} FROM records r WHERE r.sid = s.sid AND r.seq > %s AND r.seq <= %s "
        f"AND {where} ORDER BY r.seq {'DESC' if backwards else 'ASC'} LIMIT %s OFFSET %s"
        ") r ON true WHERE s.id = %s",
        (low, high, *values, query.limit + 1, query.offset, query.session_id),
    )
    if not found:
        raise SessionNotFoundError(query.session_id)
    epoch, base_seq, first, *_ = found[0]
    for cursor in filter(None, (query.after, query.before)):
        seq_of(cursor, query.session_id, epoch)
    rows = [row[2:] for row in found if first is not None]
    enough = len(rows) > query.limit if backwards else low >= base_seq
    if base_seq and not enough:
        return None
    rows.sort(key=itemgetter(0), reverse=backwards)
    return _page_of(query, epoch, rows, backwards, None)


async def _long_page(db: Statements, query: HistoryQuery) -> HistoryPage:
    """A page that may reach into what the session rests on, with its total if that is wanted."""
    async with db.one_moment():
        found = await db.rows(_PLACE, (query.session_id,))
        if not found:
            raise SessionNotFoundError(query.session_id)
        sid, epoch, seq = found[0]
        where, values = _filters(query)
        total = None
        if query.with_total:
            total = await count_records(db, await segments(db, sid, 0, seq), where, values)
        low, high = 0, seq
        if query.after is not None:
            low = seq_of(query.after, query.session_id, epoch)
        if query.before is not None:
            high = min(high, seq_of(query.before, query.session_id, epoch) - 1)
        backwards = query.newest or query.before is not None
        rows = await select_records(
            db,
            await segments(db, sid, low, high),
            where=where,
            values=values,
            backwards=backwards,
            limit=query.limit + 1,
            offset=query.offset,
        )
    return _page_of(query, epoch, rows, backwards, total)


def _page_of(
    query: HistoryQuery, epoch: int, rows: list[Any], backwards: bool, total: int | None
) -> HistoryPage:
    more = len(rows) > query.limit
    del rows[query.limit :]
    cursor = make_cursor(epoch, rows[-1][0]) if more and rows else None
    if backwards:
        rows.reverse()
    records = decode_rows(query.session_id, rows, query.strict)
    return HistoryPage(records=tuple(records), total=total, next=cursor)


def _filters(query: HistoryQuery) -> tuple[str, list[Any]]:
    where, values = ["true"], list[Any]()
    if query.start_time is not None:
        where.append("r.ts >= %s")
        values.append(to_microseconds(query.start_time))
    if query.end_time is not None:
        where.append("r.ts < %s")
        values.append(to_microseconds(query.end_time))
    if query.record_types is not None:
        where.append("r.type = ANY(%s)")
        values.append([TYPE_CODES[name] for name in query.record_types])
    if query.model is not None:
        where.append("r.model = %s")
        values.append(stored(query.model))
    return " AND ".join(where), values


async def session_by_id(db: Statements, session_id: str) -> Session | None:
    """The session, None if there is none."""
    found = await db.rows(f"{_SESSION} WHERE s.id = %s", (session_id,))
    return session_of(found[0]) if found else None


async def sessions(
    db: Statements,
    user_id: str | None,
    metadata: dict[str, JSON] | None,
    order: str,
    limit: int,
    after: str | None,
) -> SessionPage:
    """See :meth:`asynchistory.storage.port.Storage.list_sessions`.

    What metadata holds is looked at here: it may have what PostgreSQL's JSON cannot.
    """
    columns: tuple[str, ...]
    if order == "created":
        by_time, columns, sign, direction = 4, ("s.created", "s.sid"), ">", "ASC"
        bounds = "%s, %s"
    else:
        by_time, columns, sign, direction = 5, ("s.minute", "s.updated", "s.sid"), "<", "DESC"
        bounds = f"{MINUTE}, %s, %s"
    found: list[Any] = []
    place = None if after is None else parse_cursor(after)
    size = limit + 1 if metadata is None else max(limit + 1, 500)
    while len(found) <= limit:
        where, values = ["true"], list[Any]()
        if user_id is not None:
            where.append("s.user_id = %s")
            values.append(user_id)
        if place is not None:
            where.append(f"({', '.join(columns)}) {sign} ({bounds})")
            values += place[:1] * (len(columns) - 1) + place[1:]
        some = await db.rows(
            f"{_SESSION} WHERE {' AND '.join(where)} "
            f"ORDER BY {', '.join(f'{column} {direction}' for column in columns)} LIMIT %s",
            (*values, size),
        )
        found += [row for row in some if metadata is None or _has(row[3], metadata)]
        if len(some) < size or metadata is None:
            break
        place = (some[-1][by_time], some[-1][11])
    cursor = None
    if len(found) > limit > 0:
        cursor = make_cursor(found[limit - 1][by_time], found[limit - 1][11])
    return SessionPage(sessions=tuple(session_of(row) for row in found[:limit]), next=cursor)


def _has(text: str, wanted: dict[str, JSON]) -> bool:
    held = msgspec.json.decode(text)
    return all(name in held and _same(held[name], value) for name, value in wanted.items())


def _same(one: JSON, other: JSON) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


async def summary(db: Statements, session_id: str) -> SessionSummary | None:
    """See :meth:`asynchistory.storage.port.Storage.summary`."""
    async with db.one_moment():
        session = await session_by_id(db, session_id)
        if session is None:
            return None
        sid, _, seq = (await db.rows(_PLACE, (session_id,)))[0]
        places = await segments(db, sid, 0, seq)
        source = (
            "unnest(%s::bigint[], %s::bigint[], %s::bigint[]) j(sid, low, high) "
            "JOIN records r ON r.sid = j.sid AND r.seq > j.low AND r.seq <= j.high"
        )
        columns = [list(column) for column in zip(*places, strict=True)] or [[], [], []]
        return SessionSummary(session=session, **await _count(db, source, columns))


async def counts(db: Statements) -> StoreCounts:
    """See :meth:`asynchistory.storage.port.Storage.counts`."""
    async with db.one_moment("SET LOCAL statement_timeout = 0"):
        number = await db.scalar("SELECT count(*) FROM sessions")
        return StoreCounts(sessions=number, **await _count(db, "records r", ()))


async def _count(db: Statements, source: str, values: Sequence[object]) -> dict[str, Any]:
    found = await db.rows(
        "SELECT r.type, r.role, count(*), coalesce(sum(r.tool_calls), 0)::bigint, "
        f"coalesce(sum(r.tool_results), 0)::bigint FROM {source} GROUP BY 1, 2 ORDER BY 1, 2",
        values,
    )
    types: dict[str, int] = {}
    roles: dict[str, int] = {}
    for code, role, number, _calls, _results in found:
        name = _TYPE_NAMES.get(code, str(code))
        types[name] = types.get(name, 0) + number
        if role is not None:
            roles[unstored(role)] = number
    return {
        "records": sum(types.values()),
        "record_types": types,
        "roles": dict(sorted(roles.items())),
        "tool_calls": sum(row[3] for row in found),
        "tool_results": sum(row[4] for row in found),
    }


def session_of(row: Sequence[Any]) -> Session:
    """A row of the columns above as a session."""
    name, user_id, title, metadata, created, updated, *rest = row
    seq, epoch, parent, fork_seq, expires, _sid = rest
    return Session(
        id=name,
        user_id=user_id,
        title=None if title is None else unstored(title),
        metadata=msgspec.json.decode(metadata),
        created_at=from_microseconds(created),
        updated_at=from_microseconds(updated),
        seq=seq,
        epoch=epoch,
        forked_from=parent,
        fork_seq=fork_seq,
        expires_at=None if expires is None else from_microseconds(expires),
    )
