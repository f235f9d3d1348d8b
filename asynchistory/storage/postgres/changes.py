"""Changes of sessions and of records that are there: create, truncate, replace, fork, delete.

A fork shares its first records with the session that it rests on: they stay
where they are. So whatever takes records away from a session first hands those
that forks rest on to one of them, the heir, and lets the others rest on it.

Such a change holds the lock of its family (see :mod:`asynchistory.storage.postgres.places`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from asynchistory.codec import decode_row, to_microseconds
from asynchistory.errors import (
    EpochChangedError,
    IdempotencyMismatchError,
    SequenceConflictError,
    SessionExistsError,
    SessionNotFoundError,
)
from asynchistory.queries import Appended, Session, Truncated
from asynchistory.records import JSON, CorruptRecord
from asynchistory.storage.calls import CALL_TYPES, CallFacts, calls_in
from asynchistory.storage.keys import appended, truncated
from asynchistory.storage.port import Batch, Cut, Deleted, ForkPlan, Key, fork_seq, stays
from asynchistory.storage.postgres.appends import (
    INSERT_RECORDS,
    facts_json,
    merged,
    row_arrays,
)
from asynchistory.storage.postgres.arrays import integers, stored
from asynchistory.storage.postgres.migrations import MERGE
from asynchistory.storage.postgres.places import (
    LOCK,
    Place,
    found,
    lock,
    lock_of,
    make,
    next_epoch,
    tell,
)
from asynchistory.storage.postgres.reads import MINUTE, session_by_id
from asynchistory.storage.postgres.segments import (
    COLUMNS,
    segments,
    select_records,
)
from asynchistory.storage.postgres.sql import Statements

_CALL_CODES = ", ".join(str(code) for code in sorted(CALL_TYPES))
_KEY = "SELECT key, digest, epoch, first_seq, last_seq, removed FROM idempotency "
_FACTS = ", ".join(f"f.{name}" for name in CallFacts._fields)
_FACT_TYPES = ", ".join(
    f"{name} {'text' if name in ('request', 'provider', 'model', 'finish_reason', 'currency') else 'bigint'}"  # noqa: E501
    for name in CallFacts._fields
)
INSERT_CALLS = (
    f"INSERT INTO calls AS c SELECT %s, {_FACTS} "
    f"FROM jsonb_to_recordset(%s::jsonb) AS f({_FACT_TYPES}) "
    f"ON CONFLICT (sid, request) DO UPDATE SET {MERGE}"
)
_COPIED = "ts, crc, type, tool_calls, tool_results, id, role, model, body"


# -- sessions


async def create_session(
    db: Statements,
    session_id: str,
    *,
    exist_ok: bool,
    metadata: dict[str, JSON],
    **fields: Any,
) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.create_session`."""
    if await make(db, session_id) is None:
        found = await session_by_id(db, session_id)
        if not exist_ok or found is None:
            raise SessionExistsError(session_id)
        return found
    await _set(db, session_id, metadata=metadata, **fields)
    return await _session(db, session_id)


async def update_session(db: Statements, session_id: str, **fields: Any) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.update_session`."""
    if await lock(db, session_id) is None:
        raise SessionNotFoundError(session_id)
    await _set(db, session_id, **fields)
    return await _session(db, session_id)


async def _session(db: Statements, session_id: str) -> Session:
    session = await session_by_id(db, session_id)
    assert session is not None
    return session


async def _set(db: Statements, session_id: str, **fields: Any) -> None:
    changes = dict(_columns(**fields))
    if changes:
        names = ", ".join(f"{name} = %s" for name in changes)
        await db.run(
            f"UPDATE sessions SET {names}, updated = greatest(updated, now_us()) WHERE id = %s",
            (*changes.values(), session_id),
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
        yield "title", stored(title)
    if metadata is not None:
        yield "metadata", msgspec.json.encode(metadata).decode()
    if expires_at is not None:
        yield "expires", None if expires_at == "never" else to_microseconds(expires_at)


# -- records


async def replace(db: Statements, batch: Batch) -> Appended:
    """See :meth:`asynchistory.storage.port.Storage.replace`."""
    place = await lock(db, batch.session_id)
    while place is None:
        _check_seq(batch.session_id, batch.expected_seq, 0)
        place = await make(db, batch.session_id)
        if place is not None:
            return await _put(db, place, batch)
        place = await lock(db, batch.session_id)  # others have just made it
    earlier = await _earlier(db, place, batch.session_id, batch.idempotency_key, batch.digest)
    if earlier is not None:
        return appended(batch, earlier, replayed=True)
    _check_seq(batch.session_id, batch.expected_seq, place.seq)
    await _shrink(db, place, 0)
    if place.watched:
        await tell(db, batch.session_id)
    return await _put(db, place, batch)


async def _put(db: Statements, place: Place, batch: Batch) -> Appended:
    await insert(db, place, batch)
    key = Key(batch.idempotency_key or "", batch.digest, place.epoch, 1, place.seq)
    if batch.idempotency_key is not None:
        await remember(db, place, [key])
    return appended(batch, key, replayed=False)


async def insert(db: Statements, place: Place, batch: Batch) -> None:
    """Put the batch's records behind those of the session."""
    if batch.rows:
        numbers = integers(range(1, len(batch.rows) + 1))
        await db.run(INSERT_RECORDS, (place.sid, place.seq, numbers, *row_arrays(batch.rows)))
    place.seq += len(batch.rows)
    await db.run(
        "UPDATE sessions SET seq = %s, updated = greatest(updated, now_us()) WHERE sid = %s",
        (place.seq, place.sid),
    )
    if batch.calls:
        await db.run(INSERT_CALLS, (place.sid, facts_json(merged(batch.calls))))


async def truncate(db: Statements, cut: Cut) -> Truncated:
    """See :meth:`asynchistory.storage.port.Storage.truncate`."""
    place = await found(db, cut.session_id)
    earlier = await _earlier(db, place, cut.session_id, cut.idempotency_key, cut.digest)
    if earlier is not None:
        return truncated(cut, earlier, replayed=True)
    _check_epoch(cut.session_id, cut.epoch, place)
    _check_seq(cut.session_id, cut.expected_seq, place.seq)
    seq, left = place.seq, stays(cut, place.seq)
    removed = None
    if cut.keep:
        places = await segments(db, place.sid, left, seq)
        removed = msgspec.msgpack.encode(await select_records(db, places))
    if left < seq:
        await _shrink(db, place, left)
        if place.watched:
            await tell(db, cut.session_id)
    key = Key(cut.idempotency_key or "", cut.digest, place.epoch, left, seq, removed)
    if cut.idempotency_key is not None:
        await remember(db, place, [key])
    return truncated(cut, key, replayed=False)


async def fork(db: Statements, plan: ForkPlan) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.fork`."""
    parent = await found(db, plan.session_id)
    _check_epoch(plan.session_id, plan.epoch, parent)
    seq = fork_seq(plan, parent.seq)
    owner, title, metadata = (
        await db.rows("SELECT user_id, title, metadata FROM sessions WHERE sid = %s", (parent.sid,))
    )[0]
    place = await make(db, plan.new_id)
    if place is None:
        raise SessionExistsError(plan.new_id)
    base, base_seq, family = None, 0, place.sid
    if plan.user_id in (None, owner):
        base, base_seq = await _resting(db, parent.sid, seq)
        family = parent.family
    else:
        for part in await segments(db, parent.sid, 0, seq):
            await db.run(
                f"INSERT INTO records(sid, seq, {_COPIED}) SELECT %s, seq, {_COPIED} "
                "FROM records WHERE sid = %s AND seq > %s AND seq <= %s ORDER BY seq",
                (place.sid, *part),
            )
    if plan.metadata is not None:
        metadata = msgspec.json.encode(plan.metadata).decode()
    await db.run(
        "UPDATE sessions SET seq = %s, user_id = %s, title = %s, metadata = %s, expires = %s, "
        "forked_from = %s, fork_seq = %s, base = %s, base_seq = %s, family = %s WHERE sid = %s",
        (
            seq,
            owner if plan.user_id is None else plan.user_id,
            title if plan.title is None else stored(plan.title),
            metadata,
            None if plan.expires_at is None else to_microseconds(plan.expires_at),
            parent.sid,
            seq,
            base,
            base_seq,
            family,
            place.sid,
        ),
    )
    return await _session(db, plan.new_id)


async def delete(db: Statements, session_id: str) -> bool:
    """See :meth:`asynchistory.storage.port.Storage.delete_session`."""
    place = await lock(db, session_id)
    if place is None:
        return False
    await _remove(db, place, session_id)
    return True


async def prune(db: Statements, where: str, values: Sequence[Any], most: int) -> list[Deleted]:
    """Delete up to ``most`` sessions that a condition finds, but those that are in use."""
    found = await db.rows(
        f"SELECT sid, coalesce(family, sid), id FROM sessions WHERE {where} LIMIT %s "
        "FOR UPDATE SKIP LOCKED",
        (*values, most),
    )
    deleted: list[Deleted] = []
    for sid, family, name in found:
        # Never waited for: whoever has it may wait for the rows that are locked here.
        if await db.scalar("SELECT pg_try_advisory_xact_lock(%s, %s)", lock_of(family)):
            row = await db.rows(LOCK, (sid,))
            deleted.append(Deleted(name, await _remove(db, Place(sid, family, row[0]), name)))
    return deleted


async def erase(db: Statements, user_id: str, most: int) -> list[Deleted]:
    """Delete up to ``most`` sessions of a user, waiting for those that are in use."""
    found = await db.rows(
        "SELECT id FROM sessions WHERE user_id = %s ORDER BY sid LIMIT %s", (user_id, most)
    )
    deleted: list[Deleted] = []
    for (name,) in found:
        place = await lock(db, name)
        if place is not None:
            deleted.append(Deleted(name, await _remove(db, place, name)))
    return deleted


def due(now: datetime, older_than: datetime | None) -> tuple[str, list[int]]:
    """The condition of sessions to prune, and its values."""
    where, values = "expires <= %s", [to_microseconds(now)]
    if older_than is not None:
        moment = to_microseconds(older_than)
        where += f" OR minute <= {MINUTE} AND updated < %s"
        values += [moment, moment]
    return f"({where})", values


# -- steps


def _check_epoch(session_id: str, epoch: int | None, place: Place) -> None:
    if epoch is not None and epoch != place.epoch:
        raise EpochChangedError(session_id)


def _check_seq(session_id: str, expected: int | None, actual: int) -> None:
    if expected is not None and expected != actual:
        raise SequenceConflictError(session_id, expected, actual)


async def _earlier(
    db: Statements, place: Place, session_id: str, key: str | None, digest: bytes
) -> Key | None:
    """What a call with this key did, None if there was none."""
    if key is None:
        return None
    found = await db.rows(f"{_KEY} WHERE sid = %s AND key = %s", (place.sid, key))
    if not found:
        return None
    earlier = Key(*found[0])
    if earlier.digest != digest:
        raise IdempotencyMismatchError(session_id, key)
    return earlier


async def remember(db: Statements, place: Place, keys: Sequence[Key]) -> None:
    """Answer further calls with these keys as they were answered."""
    async with db.connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO idempotency(sid, key, digest, epoch, first_seq, last_seq, removed) "
            "VALUES(%s, %s, %s, %s, %s, %s, %s)",
            [(place.sid, *key) for key in keys],
        )


class _Fork(NamedTuple):
    sid: int
    base_seq: int


async def _resting(db: Statements, sid: int, seq: int) -> tuple[int | None, int]:
    """Where a fork of the first ``seq`` records rests: on the session that has the last of them."""
    places = await segments(db, sid, max(0, seq - 1), seq)
    return (places[0].sid, seq) if places else (None, 0)


async def _remove(db: Statements, place: Place, session_id: str) -> int:
    """Delete a session; returns how many records went with it."""
    await _hand_on(db, place, 0)
    # The calls before the session: what keeps the sums has to see whose they are.
    await db.run("DELETE FROM calls WHERE sid = %s", (place.sid,))
    count = await db.run("DELETE FROM records WHERE sid = %s", (place.sid,))
    await db.run("DELETE FROM idempotency WHERE sid = %s", (place.sid,))
    await db.run("DELETE FROM sessions WHERE sid = %s", (place.sid,))
    if place.watched:
        await tell(db, session_id)
    return count


async def _shrink(db: Statements, place: Place, left: int) -> None:
    """Keep the session's first ``left`` records, in a new epoch."""
    own = max(left, place.fork_seq)
    described = await db.rows(
        f"SELECT 1 FROM records WHERE sid = %s AND seq > %s AND type IN ({_CALL_CODES}) LIMIT 1",
        (place.sid, own),
    )
    await _hand_on(db, place, left)
    await db.run("DELETE FROM records WHERE sid = %s AND seq > %s", (place.sid, left))
    place.seq, place.epoch = left, await next_epoch(db)
    if place.base is not None and left < place.base_seq:
        place.base, place.base_seq = await _resting(db, place.base, left)
    place.fork_seq = min(place.fork_seq, left)
    await db.run(
        "UPDATE sessions SET seq = %s, epoch = %s, updated = greatest(updated, now_us()), "
        "base = %s, base_seq = %s, fork_seq = %s WHERE sid = %s",
        (left, place.epoch, place.base, place.base_seq, place.fork_seq, place.sid),
    )
    if described:
        await _count_again(db, place)


async def _hand_on(db: Statements, place: Place, left: int) -> None:
    """Give what forks rest on, beyond the first ``left`` records, to one of them."""
    # Of those that reach as far the longest first, which most likely was an heir before: then
    # what rests on it need not rest on a further one.
    found = await db.rows(
        "SELECT sid, base_seq FROM sessions WHERE base = %s AND base_seq > %s "
        "ORDER BY base_seq DESC, seq DESC, sid",
        (place.sid, left),
    )
    forks = [_Fork(*row) for row in found]
    if not forks:
        return
    heir, most = forks[0]
    await db.run(
        "UPDATE records SET sid = %s WHERE sid = %s AND seq > %s AND seq <= %s",
        (heir, place.sid, left, most),
    )
    rest = (place.sid, left) if left > place.base_seq else (place.base, place.base_seq)
    await db.run("UPDATE sessions SET base = %s, base_seq = %s WHERE sid = %s", (*rest, heir))
    others = [fork.sid for fork in forks[1:]]
    if others:
        await db.run("UPDATE sessions SET base = %s WHERE sid = ANY(%s)", (heir, others))


async def _count_again(db: Statements, place: Place) -> None:
    """Make the session's calls again from the records that are left of its own."""
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM records r "
        f"WHERE r.sid = %s AND r.seq > %s AND r.type IN ({_CALL_CODES}) ORDER BY r.seq",
        (place.sid, place.fork_seq),
    )
    whole = [row for row in rows if not isinstance(decode_row("", row), CorruptRecord)]
    calls = calls_in((code, moment, body) for _, code, moment, _, body, _ in whole)
    await db.run("DELETE FROM calls WHERE sid = %s", (place.sid,))
    if calls:
        await db.run(INSERT_CALLS, (place.sid, facts_json(calls.values())))
