"""What readers do inside a read transaction."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import apsw
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
from asynchistory.storage.sqlite.segments import (
    COLUMNS,
    count_records,
    segments,
    select_records,
)
from asynchistory.storage.sqlite.sql import rows, scalar

_VALID = "CASE WHEN json_valid(r.body) THEN r.body END"
_SESSION = (
    "SELECT s.id, s.user_id, s.title, s.metadata, s.created, s.updated, s.seq, s.epoch, "
    "p.id, s.fork_seq, s.expires, s.sid "
    "FROM sessions s LEFT JOIN sessions p ON p.sid = s.forked_from "
)
#: The records of the segments in a JSON array.
_IN_SEGMENTS = (
    "json_each(?) j JOIN records r ON r.sid = j.value ->> 0 AND r.seq > j.value ->> 1 "
    "AND r.seq <= j.value ->> 2"
)
_TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}

#: Records that a short tail has at most, and the bytes that one of them has.
SHORT, SMALL = 100, 4096
#: A session's place, then those of its newest records that are small and stored under itself:
#: all in one statement, which sees one moment without a transaction.
SHORT_TAIL = (
    "SELECT s.seq, s.epoch, 0, 0, 0, 0 FROM sessions s WHERE s.id = ?1 "
    f"UNION ALL SELECT {COLUMNS} FROM sessions s CROSS JOIN records r "
    "ON r.sid = s.sid AND r.seq > s.seq - ?2 "
    f"WHERE s.id = ?1 AND octet_length(r.body) <= {SMALL}"
)

#: The look-up of :meth:`asynchistory.storage.sqlite.SQLiteStorage.version`.
VERSION = "SELECT epoch, seq FROM sessions WHERE id = ?"


def short_tail(session_id: str, limit: int, found: list[Any]) -> Tail | None:
    """The tail in what :data:`SHORT_TAIL` found, None if it is not all there."""
    if not found:
        return None
    (seq, epoch, *_), *newest = found
    if len(newest) < min(limit, seq):
        return None  # there is a large one, or one under what a fork rests on
    newest.sort(key=itemgetter(0))
    return Tail(Version(epoch, seq), tuple(decode_rows(session_id, newest)))


def tail(db: apsw.Connection, session_id: str, limit: int) -> Tail | None:
    """See :meth:`asynchistory.storage.port.Storage.tail`."""
    found = _place(db, session_id)
    if found is None:
        return None
    sid, epoch, seq = found
    places = segments(db, sid, max(0, seq - limit), seq)
    records = decode_rows(session_id, select_records(db, places))
    return Tail(Version(epoch, seq), tuple(records))


def page(db: apsw.Connection, query: HistoryQuery) -> HistoryPage:
    """See :meth:`asynchistory.storage.port.Storage.read`."""
    found = _place(db, query.session_id)
    if found is None:
        raise SessionNotFoundError(query.session_id)
    sid, epoch, seq = found
    where, values = _filters(query)
    total = None
    if query.with_total:
        total = count_records(db, segments(db, sid, 0, seq), where, values)
    low, high = 0, seq
    if query.after is not None:
        low = seq_of(query.after, query.session_id, epoch)
    if query.before is not None:
        high = min(high, seq_of(query.before, query.session_id, epoch) - 1)
    backwards = query.newest or query.before is not None
    page_rows = select_records(
        db,
        segments(db, sid, low, high),
        where=where,
        values=values,
        backwards=backwards,
        limit=query.limit + 1,
        offset=query.offset,
    )
    more = len(page_rows) > query.limit
    del page_rows[query.limit :]
    cursor = make_cursor(epoch, page_rows[-1][0]) if more and page_rows else None
    if backwards:
        page_rows.reverse()
    records = decode_rows(query.session_id, page_rows, query.strict)
    return HistoryPage(records=tuple(records), total=total, next=cursor)


def _filters(query: HistoryQuery) -> tuple[str, list[Any]]:
    where, values = ["true"], list[Any]()
    if query.start_time is not None:
        where.append("r.ts >= ?")
        values.append(to_microseconds(query.start_time))
    if query.end_time is not None:
        where.append("r.ts < ?")
        values.append(to_microseconds(query.end_time))
    if query.record_types is not None:
        where.append(f"r.type IN ({','.join('?' * len(query.record_types))})")
        values += [TYPE_CODES[name] for name in query.record_types]
    if query.model is not None:
        where.append(f"json_extract({_VALID}, '$.model') = ?")
        values.append(query.model)
    return " AND ".join(where), values


def session_by_id(db: apsw.Connection, session_id: str) -> Session | None:
    """The session, None if there is none."""
    found = rows(db, f"{_SESSION} WHERE s.id = ?", (session_id,))
    return _session(found[0]) if found else None


def sessions(
    db: apsw.Connection,
    user_id: str | None,
    metadata: dict[str, JSON] | None,
    order: str,
    limit: int,
    after: str | None,
) -> SessionPage:
    """See :meth:`asynchistory.storage.port.Storage.list_sessions`."""
    column, sign, direction = (
        ("s.created", ">", "ASC") if order == "created" else ("s.updated", "<", "DESC")
    )
    where, values = ["true"], list[Any]()
    if user_id is not None:
        where.append("s.user_id = ?")
        values.append(user_id)
    for name, value in (metadata or {}).items():
        # Through json_each: a name may hold what a path expression takes for its own.
        where.append(
            "EXISTS(SELECT 1 FROM json_each(s.metadata) m WHERE m.key = ? AND m.atom IS ? "
            "AND m.type NOT IN ('array', 'object') AND (m.type IN ('true', 'false')) = ?)"
        )
        values += [name, value, isinstance(value, bool)]
    if after is not None:
        where.append(f"({column}, s.sid) {sign} (?, ?)")
        values += parse_cursor(after)
    found = rows(
        db,
        f"{_SESSION} WHERE {' AND '.join(where)} "
        f"ORDER BY {column} {direction}, s.sid {direction} LIMIT ?",
        (*values, limit + 1),
    )
    cursor = None
    if len(found) > limit > 0:
        last = found[limit - 1]
        cursor = make_cursor(last[4 if order == "created" else 5], last[11])
    return SessionPage(sessions=tuple(_session(row) for row in found[:limit]), next=cursor)


def summary(db: apsw.Connection, session_id: str) -> SessionSummary | None:
    """See :meth:`asynchistory.storage.port.Storage.summary`."""
    session = session_by_id(db, session_id)
    found = _place(db, session_id)
    if session is None or found is None:
        return None
    places = msgspec.json.encode(segments(db, found[0], 0, found[2])).decode()
    return SessionSummary(session=session, **_count(db, _IN_SEGMENTS, (places,)))


def counts(db: apsw.Connection) -> StoreCounts:
    """See :meth:`asynchistory.storage.port.Storage.counts`."""
    number = scalar(db, "SELECT count(*) FROM sessions")
    return StoreCounts(sessions=number, **_count(db, "records r", ()))


def _count(db: apsw.Connection, source: str, values: tuple[object, ...]) -> dict[str, Any]:
    message = TYPE_CODES["message"]
    types = rows(db, f"SELECT r.type, count(*) FROM {source} GROUP BY 1 ORDER BY 1", values)
    roles = rows(
        db,
        f"SELECT {_as_bytes('$.role')} AS role, count(*) FROM {source} "
        "WHERE r.type = ? GROUP BY 1 HAVING role IS NOT NULL ORDER BY 1",
        (*values, message),
    )
    parts: dict[bytes, int] = dict(
        rows(
            db,
            "SELECT CAST(json_extract(p.value, '$.type') AS BLOB), count(*) "
            f"FROM {source}, json_each({_VALID}, '$.parts') p WHERE r.type = ? GROUP BY 1",
            (*values, message),
        )
    )
    return {
        "records": sum(number for _, number in types),
        "record_types": {_TYPE_NAMES.get(code, str(code)): number for code, number in types},
        "roles": {role.decode(errors="replace"): number for role, number in roles},
        "tool_calls": parts.get(b"tool_call", 0),
        "tool_results": parts.get(b"tool_result", 0),
    }


def _as_bytes(path: str) -> str:
    """A piece of a body. Damaged, it may be text that is no Unicode."""
    return f"CAST(json_extract({_VALID}, '{path}') AS BLOB)"


def _place(db: apsw.Connection, session_id: str) -> tuple[int, int, int] | None:
    found = rows(db, "SELECT sid, epoch, seq FROM sessions WHERE id = ?", (session_id,))
    return found[0] if found else None


def _session(row: tuple[Any, ...]) -> Session:
    name, user_id, title, metadata, created, updated, *rest = row
    seq, epoch, parent, fork_seq, expires, _sid = rest
    return Session(
        id=name,
        user_id=user_id,
        title=title,
        metadata=msgspec.json.decode(metadata),
        created_at=from_microseconds(created),
        updated_at=from_microseconds(updated),
        seq=seq,
        epoch=epoch,
        forked_from=parent,
        fork_seq=fork_seq,
        expires_at=None if expires is None else from_microseconds(expires),
    )
