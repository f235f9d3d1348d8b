"""What the writer does inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

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
from asynchistory.storage.calls import PRICE_FIELDS, USAGE_FIELDS, CallFacts, merge
from asynchistory.storage.keys import appended
from asynchistory.storage.port import Batch, Key
from asynchistory.storage.sqlite import keys
from asynchistory.storage.sqlite.reads import session_by_id
from asynchistory.storage.sqlite.sql import rows, scalar

_FIND_SESSION = "SELECT sid, epoch, seq, last_key FROM sessions WHERE id = ?"
_INSERT_SESSION = "INSERT INTO sessions(id, created, updated, epoch) VALUES(?,?,?,?) RETURNING sid"
_PROBE = "INSERT INTO counters VALUES('probe', 1) ON CONFLICT DO UPDATE SET value = value + 1"
_NEXT_EPOCH = "UPDATE counters SET value = value + 1 WHERE name = 'epoch' RETURNING value"
_INSERT_RECORD = "INSERT INTO records(sid, seq, type, ts, id, body, crc) VALUES(?,?,?,?,?,?,?)"
_ADVANCE = "UPDATE sessions SET seq = ?, updated = ? WHERE sid = ?"


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


class Place:
    """Where a session stands inside this transaction."""

    __slots__ = ("epoch", "last_key", "seq", "sid")

    def __init__(self, sid: int, epoch: int, seq: int, last_key: str | None = None) -> None:
        self.sid: int = sid
        self.epoch: int = epoch
        self.seq: int = seq
        self.last_key: str | None = last_key


class WriteGroup:
    """The appends and changes of one transaction.

    Appends are gathered and written together by :meth:`flush`. A method that
    refuses raises before it has gathered or written anything.

    Args:
        db: the writer's connection, in a transaction.
        places: where sessions stand, as the writer remembers it. It is added to, and
            must be emptied when the transaction is rolled back.
    """

    def __init__(self, db: apsw.Connection, places: dict[str, Place]) -> None:
        self.db: apsw.Connection = db
        self.now: int = now_us()
        self._places = places
        self._grown: dict[int, Place] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._calls: dict[tuple[int, str], CallFacts] = {}
        self._keys: keys.Gathered = {}

    def append(self, batch: Batch) -> Appended:
        """See :meth:`asynchistory.storage.port.Storage.append`."""
        place = self._places.get(batch.session_id) or self.place(batch.session_id)
        if batch.idempotency_key is not None:
            earlier = self.earlier(batch.session_id, batch.idempotency_key, batch.digest)
            if earlier is not None:
                return appended(batch, earlier, replayed=True)
        if batch.expected_seq is not None:
            check_seq(batch.session_id, batch.expected_seq, 0 if place is None else place.seq)
        return self.gather(place or self.create(batch.session_id), batch)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._rows:
            self.db.executemany(_INSERT_RECORD, self._rows)
            self._rows = []
        if self._grown:
            self.db.executemany(
                _ADVANCE, [(place.seq, self.now, place.sid) for place in self._grown.values()]
            )
            self._grown = {}
        if self._calls:
            calls = [(sid, *facts) for (sid, _), facts in self._calls.items()]
            self.db.executemany(_UPSERT_CALL, calls)
            self._calls = {}
        if self._keys:
            keys.insert(self.db, self._keys)
            self._keys = {}

    def create_session(
        self, session_id: str, *, exist_ok: bool, metadata: dict[str, JSON], **fields: Any
    ) -> Session:
        """See :meth:`asynchistory.storage.port.Storage.create_session`."""
        if self.place(session_id) is not None:
            if not exist_ok:
                raise SessionExistsError(session_id)
            return self.session(session_id)
        self.create(session_id)
        self._set(session_id, metadata=metadata, **fields)
        return self.session(session_id)

    def update_session(self, session_id: str, **fields: Any) -> Session:
        """See :meth:`asynchistory.storage.port.Storage.update_session`."""
        if self.place(session_id) is None:
            raise SessionNotFoundError(session_id)
        self._set(session_id, **fields)
        return self.session(session_id)

    def probe(self) -> None:
        """Write something, to see whether that can be done."""
        self.db.execute(_PROBE)

    # -- steps, for the changes of other modules too

    def place(self, session_id: str) -> Place | None:
        """Where the session stands, None if there is none."""
        place = self._places.get(session_id)
        if place is None:
            found = rows(self.db, _FIND_SESSION, (session_id,))
            if found:
                place = self._places[session_id] = Place(*found[0])
        return place

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._places.pop(session_id, None)

    def create(self, session_id: str) -> Place:
        """Make the session, which must not exist."""
        epoch = self.next_epoch()
        sid = scalar(self.db, _INSERT_SESSION, (session_id, self.now, self.now, epoch))
        place = self._places[session_id] = Place(sid, epoch, 0)
        return place

    def next_epoch(self) -> int:
        """An epoch that no session ever had.

        The counter only grows, so that a session made again is not taken for its old self.
        """
        epoch: int = scalar(self.db, _NEXT_EPOCH)
        return epoch

    def gather(self, place: Place, batch: Batch) -> Appended:
        """Take the batch's records as the session's next."""
        sid, first = place.sid, place.seq + 1
        for seq, row in enumerate(batch.rows, first):
            self._rows.append((sid, seq, *row))
        place.seq += len(batch.rows)
        self._grown[sid] = place
        for facts in batch.calls:
            known = self._calls.get((sid, facts.request))
            self._calls[sid, facts.request] = facts if known is None else merge(known, facts)
        key = batch.idempotency_key
        if key is not None:
            self.remember(place, Key(key, batch.digest, place.epoch, first, place.seq))
        return Appended(
            session_id=batch.session_id, epoch=place.epoch, first_seq=first, last_seq=place.seq
        )

    def remember(self, place: Place, key: Key) -> None:
        """Answer a further call with this key as this one was answered."""
        self._keys[place.sid, key.key] = (key, place.last_key)
        place.last_key = key.key

    def earlier(self, session_id: str, key: str | None, digest: bytes) -> Key | None:
        """What a call with this key did, None if there was none.

        Raises:
            IdempotencyMismatchError: it was a call of something else.
        """
        place = self.place(session_id)
        if place is None or key is None:
            return None
        gathered = self._keys.get((place.sid, key))
        found = gathered[0] if gathered else keys.find(self.db, place.sid, key)
        if found is None:
            return None
        if found.digest != digest:
            raise IdempotencyMismatchError(session_id, key)
        return found

    def session(self, session_id: str) -> Session:
        """The session as it stands now."""
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
    expires_at: datetime | Literal["never"] | None = None,
) -> Iterator[tuple[str, object]]:
    if user_id is not None:
        yield "user_id", user_id
    if title is not None:
        yield "title", title
    if metadata is not None:
        yield "metadata", msgspec.json.encode(metadata).decode()
    if expires_at is not None:
        yield "expires", None if expires_at == "never" else to_microseconds(expires_at)


def check_seq(session_id: str, expected: int | None, actual: int) -> None:
    """Raise :class:`~asynchistory.SequenceConflictError` unless the caller knew the newest seq."""
    if expected is not None and expected != actual:
        raise SequenceConflictError(session_id, expected, actual)
