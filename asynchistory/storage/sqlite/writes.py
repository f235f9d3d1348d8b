"""What the writer does inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import apsw
import msgspec

from asynchistory._ids import now_us
from asynchistory.codec import to_microseconds
from asynchistory.errors import (
    IdempotencyMismatchError,
    SequenceConflictError,
    SessionExistsError,
    SessionNotFoundError,
)
from asynchistory.queries import Appended, Session
from asynchistory.records import JSON
from asynchistory.storage.calls import PRICE_FIELDS, USAGE_FIELDS, CallFacts
from asynchistory.storage.port import Batch
from asynchistory.storage.sqlite.reads import session_by_id
from asynchistory.storage.sqlite.sql import rows, scalar

_FIND_SESSION = "SELECT sid, epoch, seq FROM sessions WHERE id = ?"
_INSERT_SESSION = "INSERT INTO sessions(id, created, updated, epoch) VALUES(?,?,?,?) RETURNING sid"
_NEXT_EPOCH = "UPDATE counters SET value = value + 1 WHERE name = 'epoch' RETURNING value"
_INSERT_RECORD = "INSERT INTO records(sid, seq, type, ts, id, body, crc) VALUES(?,?,?,?,?,?,?)"
_ADVANCE = "UPDATE sessions SET seq = ?, updated = ? WHERE sid = ?"
_INSERT_KEY = "INSERT INTO idempotency VALUES(?,?,?,?,?,?)"
_FIND_KEY = "SELECT digest, epoch, first_seq, last_seq FROM idempotency WHERE sid = ? AND key = ?"


def _upsert_call() -> str:
    names = CallFacts._fields
    better = "excluded.usage_rank > 0 AND excluded.usage_rank >= calls.usage_rank"
    changes = [
        "provider = CASE WHEN excluded.requested THEN excluded.provider ELSE calls.provider END",
        "model = CASE WHEN excluded.requested THEN excluded.model ELSE calls.model END",
        "day = min(calls.day, excluded.day)",
        "requested = max(calls.requested, excluded.requested)",
        "responded = max(calls.responded, excluded.responded)",
        "priced = max(calls.priced, excluded.priced)",
        "usage_rank = max(calls.usage_rank, excluded.usage_rank)",
        *(
            f"{name} = coalesce(excluded.{name}, calls.{name})"
            for name in ("finish_reason", "response_us", "first_token_us")
        ),
        *(
            f"{name} = CASE WHEN {better} THEN excluded.{name} ELSE calls.{name} END"
            for name in USAGE_FIELDS
        ),
        *(
            f"{name} = CASE WHEN excluded.priced THEN excluded.{name} ELSE calls.{name} END"
            for name in PRICE_FIELDS
        ),
    ]
    return (
        f"INSERT INTO calls(sid, {', '.join(names)}) VALUES({','.join('?' * (len(names) + 1))}) "
        f"ON CONFLICT(sid, request) DO UPDATE SET {', '.join(changes)}"
    )


_UPSERT_CALL = _upsert_call()


class _Place:
    """Where a session stands inside this transaction."""

    __slots__ = ("epoch", "seq", "sid")

    def __init__(self, sid: int, epoch: int, seq: int) -> None:
        self.sid = sid
        self.epoch = epoch
        self.seq = seq


class WriteGroup:
    """The appends and changes of one transaction.

    Appends are gathered and written together by :meth:`flush`. A method that
    refuses raises before it has gathered or written anything.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        self.now: int = now_us()
        self._places: dict[str, _Place] = {}
        self._grown: dict[str, _Place] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._calls: list[tuple[Any, ...]] = []
        self._keys: dict[tuple[int, str], tuple[bytes, int, int, int]] = {}

    def append(self, batch: Batch) -> Appended:
        """See :meth:`asynchistory.storage.port.Storage.append`."""
        place = self._place(batch.session_id)
        if place is not None and batch.idempotency_key is not None:
            earlier = self._earlier(place.sid, batch.idempotency_key)
            if earlier is not None:
                return _replay(batch, earlier)
        actual = 0 if place is None else place.seq
        if batch.expected_seq is not None and batch.expected_seq != actual:
            raise SequenceConflictError(batch.session_id, batch.expected_seq, actual)
        if place is None:
            place = self._create(batch.session_id)
        return self._gather(place, batch)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._rows:
            self.db.executemany(_INSERT_RECORD, self._rows)
            self.db.executemany(
                _ADVANCE, [(place.seq, self.now, place.sid) for place in self._grown.values()]
            )
            self._rows = []
            self._grown = {}
        if self._calls:
            self.db.executemany(_UPSERT_CALL, self._calls)
            self._calls = []
        if self._keys:
            self.db.executemany(_INSERT_KEY, [(*key, *value) for key, value in self._keys.items()])
            self._keys = {}

    def create_session(
        self, session_id: str, *, exist_ok: bool, metadata: dict[str, JSON], **fields: Any
    ) -> Session:
        """See :meth:`asynchistory.storage.port.Storage.create_session`."""
        if self._place(session_id) is not None:
            if not exist_ok:
                raise SessionExistsError(session_id)
            return self._session(session_id)
        self._create(session_id)
        self._set(session_id, metadata=metadata, **fields)
        return self._session(session_id)

    def update_session(self, session_id: str, **fields: Any) -> Session:
        """See :meth:`asynchistory.storage.port.Storage.update_session`."""
        if self._place(session_id) is None:
            raise SessionNotFoundError(session_id)
        self._set(session_id, **fields)
        return self._session(session_id)

    def delete_session(self, session_id: str) -> bool:
        """See :meth:`asynchistory.storage.port.Storage.delete_session`."""
        place = self._place(session_id)
        if place is None:
            return False
        self.flush()
        for table in ("records", "calls", "idempotency", "sessions"):
            self.db.execute(f"DELETE FROM {table} WHERE sid = ?", (place.sid,))
        del self._places[session_id]
        return True

    # -- steps

    def _place(self, session_id: str) -> _Place | None:
        place = self._places.get(session_id)
        if place is None:
            found = rows(self.db, _FIND_SESSION, (session_id,))
            if found:
                place = self._places[session_id] = _Place(*found[0])
        return place

    def _create(self, session_id: str) -> _Place:
        # The counter only ever grows, so that a session made again is not taken for its old self.
        epoch = scalar(self.db, _NEXT_EPOCH)
        sid = scalar(self.db, _INSERT_SESSION, (session_id, self.now, self.now, epoch))
        place = self._places[session_id] = _Place(sid, epoch, 0)
        return place

    def _earlier(self, sid: int, key: str) -> tuple[bytes, int, int, int] | None:
        found = self._keys.get((sid, key))
        if found is None:
            stored = rows(self.db, _FIND_KEY, (sid, key))
            found = stored[0] if stored else None
        return found

    def _gather(self, place: _Place, batch: Batch) -> Appended:
        first = place.seq + 1
        last = place.seq = place.seq + len(batch.rows)
        sid = place.sid
        self._rows += [(sid, seq, *row) for seq, row in enumerate(batch.rows, first)]
        self._grown[batch.session_id] = place
        if batch.calls:
            self._calls += [(sid, *facts) for facts in batch.calls]
        if batch.idempotency_key is not None:
            value = (batch.digest, place.epoch, first, last)
            self._keys[sid, batch.idempotency_key] = value
        return Appended(
            session_id=batch.session_id, epoch=place.epoch, first_seq=first, last_seq=last
        )

    def _session(self, session_id: str) -> Session:
        self.flush()
        session = session_by_id(self.db, session_id)
        assert session is not None
        return session

    def _set(self, session_id: str, **fields: Any) -> None:
        self.flush()
        changes = dict(_columns(**fields))
        if changes:
            names = ", ".join(f"{name} = ?" for name in changes)
            self.db.execute(
                f"UPDATE sessions SET {names}, updated = ? WHERE id = ?",
                (*changes.values(), self.now, session_id),
            )


def _columns(
    *,
    user_id: str | None = None,
    title: str | None = None,
    metadata: dict[str, JSON] | None = None,
    expires_at: datetime | None = None,
) -> Iterator[tuple[str, object]]:
    if user_id is not None:
        yield "user_id", user_id
    if title is not None:
        yield "title", title
    if metadata is not None:
        yield "metadata", msgspec.json.encode(metadata).decode()
    if expires_at is not None:
        yield "expires", to_microseconds(expires_at)


def _replay(batch: Batch, earlier: tuple[bytes, int, int, int]) -> Appended:
    digest, epoch, first, last = earlier
    if digest != batch.digest:
        assert batch.idempotency_key is not None
        raise IdempotencyMismatchError(batch.session_id, batch.idempotency_key)
    return Appended(
        session_id=batch.session_id, epoch=epoch, first_seq=first, last_seq=last, replayed=True
    )
