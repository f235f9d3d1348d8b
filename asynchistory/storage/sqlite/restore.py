"""Whole sessions out and in again: their keys for an export, and all of one for an import."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from asynchistory.codec import Row, to_microseconds
from asynchistory.errors import SessionExistsError
from asynchistory.queries import Session
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.calls import CallFacts
from asynchistory.storage.port import Batch, Key
from asynchistory.storage.sqlite.keys import of_session
from asynchistory.storage.sqlite.reads import session_by_id
from asynchistory.storage.sqlite.sql import scalar
from asynchistory.storage.sqlite.writes import WriteGroup

_SID = "SELECT sid FROM sessions WHERE id = ?"
_DESCRIBE = (
    "UPDATE sessions SET user_id = ?, title = ?, metadata = ?, created = ?, expires = ?, "
    "epoch = ?, fork_seq = ?, forked_from = (SELECT sid FROM sessions WHERE id = ?) "
    "WHERE sid = ?"
)


def keys(db: apsw.Connection, session_id: str) -> SessionKeys | None:
    """See :meth:`asynchistory.storage.port.Storage.idempotency_keys`."""
    session = session_by_id(db, session_id)
    if session is None:
        return None
    return SessionKeys(session, of_session(db, scalar(db, _SID, (session_id,))))


def restore(
    group: WriteGroup,
    session: Session,
    rows: Sequence[Row],
    calls: Sequence[CallFacts],
    keys: Sequence[Key],
) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.restore`."""
    if group.place(session.id) is not None:
        raise SessionExistsError(session.id)
    place = group.create(session.id)
    first, *others = sorted({session.epoch, *(key.epoch for key in keys)})
    epochs = {first: place.epoch, **{epoch: group.next_epoch() for epoch in others}}
    place.epoch = epochs[session.epoch]
    # Before the calls, which are summed up for the owner that the session has by then.
    group.db.execute(
        _DESCRIBE,
        (
            session.user_id,
            session.title,
            msgspec.json.encode(session.metadata).decode(),
            to_microseconds(session.created_at),
            None if session.expires_at is None else to_microseconds(session.expires_at),
            place.epoch,
            session.fork_seq,
            session.forked_from,
            place.sid,
        ),
    )
    group.gather(place, Batch(session.id, rows, calls))
    for key in keys:
        group.remember(place, key._replace(epoch=epochs[key.epoch]))
    group.flush()
    group.db.execute(
        "UPDATE sessions SET updated = ? WHERE sid = ?",
        (to_microseconds(session.updated_at), place.sid),
    )
    return group.session(session.id)
