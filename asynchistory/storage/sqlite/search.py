"""The search of the SQLite store: which records it reads, and in which order."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import apsw
from msgspec import json

from asynchistory.codec import TYPE_CODES, decode_row, to_microseconds
from asynchistory.queries import SearchHit, SearchQuery
from asynchistory.records import StoredRecord
from asynchistory.storage.hits import hits
from asynchistory.storage.sqlite import search_index
from asynchistory.storage.sqlite.segments import COLUMNS, Segment, segments
from asynchistory.storage.sqlite.sql import rows
from asynchistory.storage.text import SEARCHED_TYPES, search_terms

#: A session with at most so many records is read rather than looked up.
_SMALL = 2_000
#: So many of the newest records are read before a term under three characters is looked up: it is
#: often common, and its look-up does not end with the last hit that is wanted.
_GLANCE = 300
#: So many records that the index proposes are read at first.
_CHUNK = 32

_AMONG = "r.rowid IN (SELECT value FROM json_each(?))"
_INSIDE = "r.sid = ? AND r.seq > ? AND r.seq <= ?"


def search(db: apsw.Connection, query: SearchQuery) -> list[SearchHit]:
    """See :meth:`asynchistory.storage.port.Storage.search`.

    To be called in a read transaction, with a valid query. The answer is the
    same with an index, without one, and with one that lacks the newest records.
    """
    try:
        return _Search(db, query, indexed=True).hits()
    except (apsw.CorruptError, apsw.SQLError):
        # It may be the index that is damaged. If it is the records, this fails too.
        return _Search(db, query, indexed=False).hits()


class _Search:
    """One search, inside a read transaction."""

    def __init__(self, db: apsw.Connection, query: SearchQuery, *, indexed: bool) -> None:
        self.db = db
        self.query = query
        self.grams = search_index.grams(search_terms(query.text)) if indexed else None
        # Up to this rowid the index says where to look. Newer records are read.
        self.upto = search_index.mark(db) if self.grams is not None else 0
        self.where, self.values = _conditions(query)

    def hits(self) -> list[SearchHit]:
        found = self._of_store() if self.query.session_id is None else self._of_session()
        with closing(found) as records:
            return hits(records, self.query)

    def _candidates(self, upto: int) -> Generator[int]:
        assert self.grams is not None
        return search_index.candidates(self.db, self.grams, upto)

    def _read(self, sql: str, *values: object) -> Iterator[StoredRecord]:
        # Row by row, so that a search ends with the last hit that is wanted.
        with closing(self.db.execute(sql, (*values, *self.values))) as found:
            for session_id, *row in found:
                yield decode_row(session_id, tuple(row))

    # -- in the whole store: the last written first

    def _of_store(self) -> Generator[StoredRecord]:
        user = self.query.user_id
        sql = (
            f"SELECT s.id, {COLUMNS} FROM records r CROSS JOIN sessions s USING(sid) "
            f"WHERE {{}} AND (? IS NULL OR s.user_id = ?) AND {self.where} ORDER BY r.rowid DESC"
        )
        upto = self.upto
        if self.grams is not None and not self.grams.whole and self.query.order == "newest":
            upto = max(0, upto - _GLANCE)
        yield from self._read(sql.format("r.rowid > ?"), upto, user, user)
        if upto:
            with closing(self._candidates(upto)) as rowids:
                for some in _chunks(rowids):
                    yield from self._read(sql.format(_AMONG), some, user, user)

    # -- in one session: the last seq first

    def _of_session(self) -> Generator[StoredRecord]:
        places = self._places()
        near: set[int] | None = None
        if self.upto and sum(place.high - place.low for place in places) > _SMALL:
            near = set(self._candidates(self.upto))
        for place in reversed(places):
            yield from self._in_segment(place, near)

    def _places(self) -> list[Segment]:
        user = self.query.user_id
        found = rows(
            self.db,
            "SELECT sid, seq FROM sessions WHERE id = ? AND (? IS NULL OR user_id = ?)",
            (self.query.session_id, user, user),
        )
        return segments(self.db, found[0][0], 0, found[0][1]) if found else []

    def _in_segment(self, place: Segment, near: set[int] | None) -> Iterator[StoredRecord]:
        name = self.query.session_id
        sql = f"SELECT ?, {COLUMNS} FROM records r WHERE {{}} AND {self.where} ORDER BY r.seq DESC"
        if near is None:
            yield from self._read(sql.format(_INSIDE), name, *place)
            return
        every = rows(
            self.db, f"SELECT r.rowid FROM records r WHERE {_INSIDE} ORDER BY r.seq DESC", place
        )
        wanted = (rowid for (rowid,) in every if rowid > self.upto or rowid in near)
        for some in _chunks(wanted):
            yield from self._read(sql.format(_AMONG), name, some)


def _chunks(rowids: Iterator[int]) -> Iterator[str]:
    """Rowids as JSON, some at a time: first few, since few may do."""
    size = _CHUNK
    while some := list(islice(rowids, size)):
        yield json.encode(some).decode()
        size = min(2 * size, 16 * _CHUNK)


def _conditions(query: SearchQuery) -> tuple[str, list[Any]]:
    """What columns can tell, so that a record need not be decoded to be left out."""
    names = SEARCHED_TYPES if query.record_types is None else query.record_types
    where = [f"r.type IN ({', '.join('?' * len(names))})"]
    values: list[Any] = [TYPE_CODES[name] for name in names]
    for moment, sign in ((query.start_time, ">="), (query.end_time, "<")):
        if moment is not None:
            where.append(f"r.ts {sign} ?")
            values.append(to_microseconds(moment))
    return " AND ".join(where), values
