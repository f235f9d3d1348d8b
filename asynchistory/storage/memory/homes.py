"""A session of the memory store, and what changes it. All of it under the store's lock."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from msgspec.structs import replace

from asynchistory._ids import now_us
from asynchistory.codec import Row, from_microseconds, row_record
from asynchistory.errors import (
    EpochChangedError,
    IdempotencyMismatchError,
    SequenceConflictError,
)
from asynchistory.queries import Session, Version
from asynchistory.records import StoredRecord
from asynchistory.storage.calls import CallFacts, calls_in, merge
from asynchistory.storage.port import Key

#: A row with its place among all rows of the store, by which a search orders them.
Placed = tuple[int, Row]


class Home:
    """One session and all that belongs to it."""

    def __init__(self, session_id: str, number: int, epoch: int) -> None:
        now = from_microseconds(now_us())
        self.number = number
        self.session: Session = Session(id=session_id, created_at=now, updated_at=now, epoch=epoch)
        self.rows: list[Placed] = []
        self.calls: dict[str, CallFacts] = {}
        self.keys: dict[str, Key] = {}

    @property
    def version(self) -> Version:
        return Version(self.session.epoch, self.session.seq)

    def records(self, start: int = 0) -> list[StoredRecord]:
        return [self.record(seq) for seq in range(max(start, 0) + 1, len(self.rows) + 1)]

    def record(self, seq: int) -> StoredRecord:
        return row_record(self.session.id, seq, self.rows[seq - 1][1])

    def own_rows(self) -> list[Placed]:
        """Those that are not of the session that this one was forked from."""
        return self.rows[self.session.fork_seq :]

    def change(self, **fields: Any) -> None:
        now = from_microseconds(now_us())
        self.session = replace(self.session, updated_at=now, **deepcopy(fields))

    def grow(self, rows: Sequence[Placed], calls: Sequence[CallFacts]) -> None:
        """Add rows at the end."""
        self.rows += rows
        for facts in calls:
            known = self.calls.get(facts.request)
            self.calls[facts.request] = facts if known is None else merge(known, facts)
        self.change(seq=len(self.rows))

    def shrink(self, seq: int, epoch: int) -> None:
        """Keep the first ``seq`` rows."""
        self.rows = self.rows[:seq]
        self.change(seq=seq, epoch=epoch, fork_seq=min(self.session.fork_seq, seq))
        self.calls = calls_in((row.type, row.timestamp, row.body) for _, row in self.own_rows())

    def orphan(self, parent: str) -> None:
        """A session is gone, which may be the one that this was forked from."""
        if self.session.forked_from == parent:
            self.session = replace(self.session, forked_from=None)

    def remember(self, key: Key) -> None:
        """Answer a further call with this key as this one is; "" is a call without one."""
        if key.key:
            self.keys[key.key] = key

    def earlier(self, key: str | None, digest: bytes) -> Key | None:
        """What a call with this key did, None if there was none.

        Raises:
            IdempotencyMismatchError: it was a call of something else.
        """
        known = self.keys.get(key or "")
        if known is not None and known.digest != digest:
            raise IdempotencyMismatchError(self.session.id, known.key)
        return known


def check_epoch(session: Session, epoch: int | None) -> None:
    """Raise :class:`~asynchistory.EpochChangedError` unless this is the session's epoch."""
    if epoch is not None and epoch != session.epoch:
        raise EpochChangedError(session.id)


def check_seq(session_id: str, expected: int | None, actual: int) -> None:
    """Raise :class:`~asynchistory.SequenceConflictError` unless the caller knew the newest seq."""
    if expected is not None and expected != actual:
        raise SequenceConflictError(session_id, expected, actual)
