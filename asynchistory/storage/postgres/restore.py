"""Whole sessions out and in again: their keys for an export, and all of one for an import."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asynchistory.codec import Row, to_microseconds
from asynchistory.errors import SessionExistsError
from asynchistory.queries import Session
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.calls import CallFacts
from asynchistory.storage.port import Batch, Key
from asynchistory.storage.postgres.arrays import stored
from asynchistory.storage.postgres.changes import insert, remember
from asynchistory.storage.postgres.places import make, next_epoch
from asynchistory.storage.postgres.reads import session_by_id
from asynchistory.storage.postgres.sql import Statements

_KEYS = (
    "SELECT i.key, i.digest, i.epoch, i.first_seq, i.last_seq, i.removed "
    "FROM idempotency i JOIN sessions s USING(sid) WHERE s.id = %s ORDER BY i.key"
)
_DESCRIBE = (
    "UPDATE sessions SET user_id = %s, title = %s, metadata = %s, created = %s, expires = %s, "
    "epoch = %s, fork_seq = %s, forked_from = (SELECT sid FROM sessions WHERE id = %s) "
    "WHERE sid = %s"
)


async def keys(db: Statements, session_id: str) -> SessionKeys | None:
    """See :meth:`asynchistory.storage.port.Storage.idempotency_keys`."""
    async with db.one_moment():
        session = await session_by_id(db, session_id)
        if session is None:
            return None
        return SessionKeys(session, [Key(*row) for row in await db.rows(_KEYS, (session_id,))])


async def restore(
    db: Statements,
    session: Session,
    rows: Sequence[Row],
    calls: Sequence[CallFacts],
    keys: Sequence[Key],
) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.restore`."""
    place = await make(db, session.id)
    if place is None:
        raise SessionExistsError(session.id)
    first, *others = sorted({session.epoch, *(key.epoch for key in keys)})
    epochs = {first: place.epoch}
    for epoch in others:
        epochs[epoch] = await next_epoch(db)
    place.epoch = epochs[session.epoch]
    # Before the calls, which are summed up for the owner that the session has by then.
    await db.run(
        _DESCRIBE,
        (
            session.user_id,
            None if session.title is None else stored(session.title),
            msgspec.json.encode(session.metadata).decode(),
            to_microseconds(session.created_at),
            None if session.expires_at is None else to_microseconds(session.expires_at),
            place.epoch,
            session.fork_seq,
            session.forked_from,
            place.sid,
        ),
    )
    await insert(db, place, Batch(session.id, rows, calls))
    if keys:
        await remember(db, place, [key._replace(epoch=epochs[key.epoch]) for key in keys])
    await db.run(
        "UPDATE sessions SET updated = %s WHERE sid = %s",
        (to_microseconds(session.updated_at), place.sid),
    )
    found = await session_by_id(db, session.id)
    assert found is not None
    return found
