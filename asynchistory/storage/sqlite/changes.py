"""Changes of records that are there: truncate, replace, fork, delete.

A fork shares its first records with the session that it rests on: they stay
where they are. So whatever takes records away from a session first hands those
that forks rest on to one of them, the heir, and lets the others rest on it. No
record is copied for that, and none is there twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from asynchistory.codec import decode_row, to_microseconds
from asynchistory.errors import EpochChangedError, SessionExistsError, SessionNotFoundError
from asynchistory.queries import Appended, Session, Truncated
from asynchistory.records import CorruptRecord
from asynchistory.storage.calls import CALL_TYPES, CallFacts, calls_in
from asynchistory.storage.keys import appended, truncated
from asynchistory.storage.port import Batch, Cut, Deleted, ForkPlan, Key, fork_seq, stays
from asynchistory.storage.sqlite import keys
from asynchistory.storage.sqlite.segments import COLUMNS, segments, select_records
from asynchistory.storage.sqlite.sql import rows, scalar
from asynchistory.storage.sqlite.writes import Place, WriteGroup, check_seq

_CALL_CODES = ", ".join(str(code) for code in sorted(CALL_TYPES))
_INSERT_CALL = f"INSERT INTO calls VALUES({', '.join('?' * (len(CallFacts._fields) + 1))})"
_COPY = "INSERT INTO records(sid, seq, type, ts, id, body, crc) VALUES(?,?,?,?,?,?,?)"


class _Rest(NamedTuple):
    """What a session rests on, and from where on its records count as its own."""

    base: int | None
    base_seq: int
    fork_seq: int


def replace(group: WriteGroup, batch: Batch) -> Appended:
    """See :meth:`asynchistory.storage.port.Storage.replace`."""
    place = group.place(batch.session_id)
    earlier = group.earlier(batch.session_id, batch.idempotency_key, batch.digest)
    if earlier is not None:
        return appended(batch, earlier, replayed=True)
    check_seq(batch.session_id, batch.expected_seq, 0 if place is None else place.seq)
    if place is None:
        place = group.create(batch.session_id)
    else:
        _shrink(group, place, 0)
    return group.gather(place, batch)


def truncate(group: WriteGroup, cut: Cut) -> Truncated:
    """See :meth:`asynchistory.storage.port.Storage.truncate`."""
    place = _found(group, cut.session_id)
    earlier = group.earlier(cut.session_id, cut.idempotency_key, cut.digest)
    if earlier is not None:
        return truncated(cut, earlier, replayed=True)
    _check_epoch(cut.session_id, cut.epoch, place)
    check_seq(cut.session_id, cut.expected_seq, place.seq)
    seq, left = place.seq, stays(cut, place.seq)
    removed = _taken(group, place, left) if cut.keep else None
    if left < seq:
        _shrink(group, place, left)
    key = Key(cut.idempotency_key or "", cut.digest, place.epoch, left, seq, removed)
    if cut.idempotency_key is not None:
        group.remember(place, key)
    return truncated(cut, key, replayed=False)


def _taken(group: WriteGroup, place: Place, left: int) -> bytes:
    group.flush()
    return msgspec.msgpack.encode(
        select_records(group.db, segments(group.db, place.sid, left, place.seq))
    )


def fork(group: WriteGroup, plan: ForkPlan) -> Session:
    """See :meth:`asynchistory.storage.port.Storage.fork`."""
    parent = _found(group, plan.session_id)
    _check_epoch(plan.session_id, plan.epoch, parent)
    seq = fork_seq(plan, parent.seq)
    if group.place(plan.new_id) is not None:
        raise SessionExistsError(plan.new_id)
    group.flush()
    owner, title, metadata = rows(
        group.db, "SELECT user_id, title, metadata FROM sessions WHERE sid = ?", (parent.sid,)
    )[0]
    place = group.create(plan.new_id)
    base, base_seq = None, 0
    if plan.user_id in (None, owner):
        base, base_seq = _resting(group, parent.sid, seq)
    else:
        chain = segments(group.db, parent.sid, 0, seq)
        copies = ((place.sid, *row) for row in select_records(group.db, chain))
        group.db.executemany(_COPY, copies)
    place.seq = seq
    if plan.metadata is not None:
        metadata = msgspec.json.encode(plan.metadata).decode()
    group.db.execute(
        "UPDATE sessions SET seq = ?, user_id = ?, title = ?, metadata = ?, expires = ?, "
        "forked_from = ?, fork_seq = ?, base = ?, base_seq = ? WHERE sid = ?",
        (
            seq,
            owner if plan.user_id is None else plan.user_id,
            title if plan.title is None else plan.title,
            metadata,
            None if plan.expires_at is None else to_microseconds(plan.expires_at),
            parent.sid,
            seq,
            base,
            base_seq,
            place.sid,
        ),
    )
    return group.session(plan.new_id)


def delete(group: WriteGroup, session_id: str) -> bool:
    """See :meth:`asynchistory.storage.port.Storage.delete_session`."""
    place = group.place(session_id)
    if place is None:
        return False
    group.flush()
    _remove(group, place.sid, session_id)
    return True


def delete_where(group: WriteGroup, where: str, values: Sequence[Any], most: int) -> list[Deleted]:
    """Delete up to ``most`` sessions that a condition finds."""
    group.flush()
    found = rows(group.db, f"SELECT sid, id FROM sessions WHERE {where} LIMIT ?", (*values, most))
    return [Deleted(session_id, _remove(group, sid, session_id)) for sid, session_id in found]


def due(now: datetime, older_than: datetime | None) -> tuple[str, list[int]]:
    """The condition of sessions to prune, and its values."""
    where, values = "expires <= ?", [to_microseconds(now)]
    if older_than is not None:
        where += " OR updated < ?"
        values.append(to_microseconds(older_than))
    return where, values


# -- steps


def _found(group: WriteGroup, session_id: str) -> Place:
    place = group.place(session_id)
    if place is None:
        raise SessionNotFoundError(session_id)
    return place


def _check_epoch(session_id: str, epoch: int | None, place: Place) -> None:
    if epoch is not None and epoch != place.epoch:
        raise EpochChangedError(session_id)


def _resting(group: WriteGroup, sid: int, seq: int) -> tuple[int | None, int]:
    """Where a fork of the first ``seq`` records rests: on the session that has the last of them."""
    places = segments(group.db, sid, max(0, seq - 1), seq)
    return (places[0].sid, seq) if places else (None, 0)


def _rest(group: WriteGroup, sid: int) -> _Rest:
    found = rows(group.db, "SELECT base, base_seq, fork_seq FROM sessions WHERE sid = ?", (sid,))
    return _Rest(*found[0])


def _remove(group: WriteGroup, sid: int, session_id: str) -> int:
    """Delete a session; returns how many records went with it."""
    _hand_on(group, sid, _rest(group, sid), 0)
    count: int = scalar(group.db, "SELECT count(*) FROM records WHERE sid = ?", (sid,))
    # The calls before the session: what keeps the sums has to see whose they are.
    keys.delete(group.db, sid)
    for table in ("records", "calls", "sessions"):
        group.db.execute(f"DELETE FROM {table} WHERE sid = ?", (sid,))
    group.forget(session_id)
    return count


def _shrink(group: WriteGroup, place: Place, left: int) -> None:
    """Keep the session's first ``left`` records, in a new epoch."""
    group.flush()
    rest = _rest(group, place.sid)
    own = max(left, rest.fork_seq)
    described = rows(
        group.db,
        f"SELECT 1 FROM records WHERE sid = ? AND seq > ? AND type IN ({_CALL_CODES}) LIMIT 1",
        (place.sid, own),
    )
    _hand_on(group, place.sid, rest, left)
    group.db.execute("DELETE FROM records WHERE sid = ? AND seq > ?", (place.sid, left))
    place.seq, place.epoch = left, group.next_epoch()
    base, base_seq = rest.base, rest.base_seq
    if base is not None and left < base_seq:
        base, base_seq = _resting(group, base, left)
    kept = _Rest(base, base_seq, min(rest.fork_seq, left))
    group.db.execute(
        "UPDATE sessions SET seq = ?, epoch = ?, updated = ?, base = ?, base_seq = ?, "
        "fork_seq = ? WHERE sid = ?",
        (left, place.epoch, group.now, *kept, place.sid),
    )
    if described:
        _count_again(group, place.sid, kept.fork_seq)


def _hand_on(group: WriteGroup, sid: int, rest: _Rest, left: int) -> None:
    """Give what forks rest on, beyond the first ``left`` records, to one of them."""
    # Of those that reach as far the longest first, which most likely was an heir before: then
    # what rests on it need not rest on a further one.
    forks = rows(
        group.db,
        "SELECT sid, base_seq FROM sessions WHERE base = ? AND base_seq > ? "
        "ORDER BY base_seq DESC, seq DESC",
        (sid, left),
    )
    if not forks:
        return
    (heir, most), *others = forks
    group.db.execute(
        "UPDATE records SET sid = ? WHERE sid = ? AND seq > ? AND seq <= ?",
        (heir, sid, left, most),
    )
    base, base_seq = (sid, left) if left > rest.base_seq else (rest.base, rest.base_seq)
    group.db.execute(
        "UPDATE sessions SET base = ?, base_seq = ? WHERE sid = ?", (base, base_seq, heir)
    )
    group.db.executemany(
        "UPDATE sessions SET base = ? WHERE sid = ?", [(heir, other) for other, _ in others]
    )


def _count_again(group: WriteGroup, sid: int, start: int) -> None:
    """Make the session's calls again from the records that are left of its own."""
    stored = rows(
        group.db,
        f"SELECT {COLUMNS} FROM records r "
        f"WHERE r.sid = ? AND r.seq > ? AND r.type IN ({_CALL_CODES}) ORDER BY r.seq",
        (sid, start),
    )
    whole = [row for row in stored if not isinstance(decode_row("", row), CorruptRecord)]
    calls = calls_in((code, moment, body) for _, code, moment, _, body, _ in whole)
    group.db.execute("DELETE FROM calls WHERE sid = ?", (sid,))
    group.db.executemany(_INSERT_CALL, [(sid, *facts) for facts in calls.values()])
