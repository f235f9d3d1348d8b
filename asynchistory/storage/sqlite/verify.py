"""The check of a whole database against itself.

It reads in one read transaction, so that it sees one moment, and row by row: what it holds in
memory is one session's model calls at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import apsw
import msgspec

from asynchistory.codec import TYPE_CODES, decode_row
from asynchistory.queries import Verification
from asynchistory.records import CorruptRecord
from asynchistory.storage.calls import CALL_TYPES, CallFacts, calls_in
from asynchistory.storage.findings import MOST, Findings
from asynchistory.storage.keys import unpack
from asynchistory.storage.sqlite.migrations import MIGRATIONS
from asynchistory.storage.sqlite.sql import rows, scalar
from asynchistory.storage.sqlite.stopping import Stop

_OWN = "SELECT seq, type, ts, id, CAST(body AS BLOB), crc FROM records WHERE sid = ? ORDER BY seq"
_CALLS = f"SELECT {', '.join(CallFacts._fields)} FROM calls WHERE sid = ?"
#: What cannot be reached from the sessions that rest on no other.
_CIRCULAR = (
    "WITH RECURSIVE rooted(sid) AS ("
    "SELECT sid FROM sessions s WHERE base IS NULL "
    "OR NOT EXISTS(SELECT 1 FROM sessions b WHERE b.sid = s.base) "
    "UNION ALL SELECT s.sid FROM rooted r JOIN sessions s ON s.base = r.sid) "
    "SELECT id FROM sessions WHERE base IS NOT NULL AND sid NOT IN (SELECT sid FROM rooted)"
)
#: UNION, and not UNION ALL: damaged keys may lead in a circle.
_LED_TO = (
    "WITH RECURSIVE chain(sid, key) AS ("
    "SELECT sid, last_key FROM sessions WHERE sid = ? "
    "UNION SELECT sid, prev FROM chain JOIN idempotency USING(key, sid)) "
    "SELECT count(*) FROM chain JOIN idempotency USING(key, sid)"
)
#: What ``rollup`` is keyed by beside its scope; its other columns are sums.
_GROUP = ("day", "provider", "model", "currency", "reason")


class _Session(NamedTuple):
    sid: int
    id: str
    metadata: str
    epoch: int
    seq: int
    fork_seq: int
    base: int | None
    base_seq: int


def verify(db: apsw.Connection, *, stop: Stop) -> Verification:
    """See :meth:`asynchistory.storage.port.Storage.verify`."""
    findings = Findings()
    with stop.interrupting(db):
        for check in (_file, _schema, _sessions, _strays, _keys, _epochs, _rollup):
            try:
                check(db, findings)
            except (apsw.CorruptError, apsw.SQLError, TypeError):
                name = check.__name__.removeprefix("_")
                findings.problem(f"the check of the {name} could not be ended for what is damaged")
            stop.check()
    # Once a damaged page was met a COMMIT fails, also of what only read.
    db.execute("ROLLBACK")
    return findings.result()


def _file(db: apsw.Connection, findings: Findings) -> None:
    """What SQLite itself finds: pages, indexes, types."""
    for (text,) in db.execute(f"PRAGMA integrity_check({MOST})"):
        if text != "ok":
            findings.problem(f"SQLite: {' '.join(text.split())[:200]}")


def _schema(db: apsw.Connection, findings: Findings) -> None:
    """Tables, indexes and triggers, against those that the migrations make."""
    sql = "SELECT type, name, sql FROM sqlite_schema"
    with closing(apsw.Connection(":memory:")) as fresh:
        for step in MIGRATIONS:
            fresh.execute(step).fetchall()
        wanted = set(rows(fresh, sql))
    for kind, name, _ in sorted(wanted - set(rows(db, sql)), key=str):
        findings.problem(f"the {kind} {name} is missing, or not as it was made")


# -- sessions and their records


def _sessions(db: apsw.Connection, findings: Findings) -> None:
    columns = ", ".join(_Session._fields)
    for row in db.execute(f"SELECT {columns} FROM sessions ORDER BY sid"):
        session = _Session(*row)
        findings.sessions += 1
        if not _has_numbers(session):
            findings.problem(f"session {session.id!r}: one of its numbers is none")
            continue
        for text in (*_faults(db, session), *_record_faults(db, session, findings)):
            findings.problem(f"session {session.id!r}: {text}")
    for (name,) in db.execute(_CIRCULAR):
        findings.problem(f"session {name!r}: it rests on itself, or on one that does")


def _faults(db: apsw.Connection, session: _Session) -> Iterator[str]:
    if not _is_object(session.metadata):
        yield "its metadata is not a JSON object"
    if not 0 <= session.fork_seq <= session.seq:
        yield f"fork_seq {session.fork_seq} is not within its {session.seq} records"
    if session.base is None:
        if session.base_seq:
            yield f"it lacks the session that its first {session.base_seq} records rest on"
        return
    held = rows(db, "SELECT seq FROM sessions WHERE sid = ?", (session.base,))
    if not held:
        yield f"the session that its first {session.base_seq} records rest on is missing"
    elif not 0 < session.base_seq <= min(held[0][0], session.seq):
        yield f"it cannot rest on another session up to seq {session.base_seq}"


def _has_numbers(session: _Session) -> bool:
    numbers = (session.epoch, session.seq, session.fork_seq, session.base or 0, session.base_seq)
    return all(type(number) is int for number in numbers)


def _is_object(text: Any) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError):
        return False


def _record_faults(db: apsw.Connection, session: _Session, findings: Findings) -> Iterator[str]:
    """Check the records that a session keeps itself: those after the ones that it rests on.

    Where each session has its own without a gap, and rests on one that reaches
    as far, each has all of its records.
    """
    expected = session.base_seq + 1
    described: list[tuple[int, int, bytes]] = []
    whole = True
    for row in db.execute(_OWN, (session.sid,)):
        findings.records += 1
        seq, code, moment, _, body, _ = row
        if seq != expected:
            yield _gap(expected, seq)
        expected = seq + 1
        fault = _damage(session.id, row)
        if fault is not None:
            whole = False
            findings.damage(fault)
        elif code in CALL_TYPES and seq > session.fork_seq:
            described.append((code, moment, body))
    if expected != session.seq + 1:
        yield f"its newest record is {expected - 1}, and not {session.seq}"
    # What a damaged record said of a call nobody can tell.
    if whole and not _calls_match(db, session.sid, described):
        yield "its model calls are not those of its records"


def _gap(expected: int, seq: int) -> str:
    if seq < expected:
        return f"record {seq} does not belong to it"
    missing = (
        f"record {expected} is" if seq == expected + 1 else f"records {expected} to {seq - 1} are"
    )
    return f"{missing} missing"


def _damage(session_id: str, row: Any) -> CorruptRecord | None:
    record = decode_row(session_id, row)
    if isinstance(record, CorruptRecord):
        return record
    if TYPE_CODES[record.record_type] != row[1]:
        return CorruptRecord(session_id=session_id, seq=row[0], reason="type")
    return None


def _calls_match(db: apsw.Connection, sid: int, described: list[tuple[int, int, bytes]]) -> bool:
    held = {row[0]: CallFacts(*row) for row in rows(db, _CALLS, (sid,))}
    return held == calls_in(described)


# -- what belongs to sessions


def _strays(db: apsw.Connection, findings: Findings) -> None:
    """Rows of sessions that there are not."""
    for table, name in (("records", "record"), ("calls", "model call"), ("idempotency", "key")):
        count = scalar(
            db, f"SELECT count(*) FROM {table} WHERE sid NOT IN (SELECT sid FROM sessions)"
        )
        if count:
            findings.problem(f"{count} {name}{'s' * (count > 1)} of a session that is missing")


def _keys(db: apsw.Connection, findings: Findings) -> None:
    columns = "s.id, s.epoch, i.epoch, i.first_seq, i.last_seq, i.removed"
    for name, newest, epoch, first, last, removed in db.execute(
        f"SELECT {columns} FROM idempotency i JOIN sessions s USING(sid)"
    ):
        # A key of a truncate, or of a replace by nothing, stands for no records.
        if not (epoch <= newest and 0 <= first <= last + 1 and _opens(name, removed)):
            findings.problem(f"session {name!r}: the answer of an idempotency key is damaged")

    # Each key leads to the one before it; a session's are found, and deleted, by going that way.
    for sid, name, count in db.execute(
        "SELECT s.sid, s.id, count(*) FROM idempotency i JOIN sessions s USING(sid) GROUP BY s.sid"
    ):
        found = scalar(db, _LED_TO, (sid,))
        if found != count:
            findings.problem(f"session {name!r}: nothing leads to {count - found} of its keys")


def _opens(name: str, removed: bytes | None) -> bool:
    if removed is None:
        return True
    try:
        return not any(isinstance(record, CorruptRecord) for record in unpack(name, removed))
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False


def _epochs(db: apsw.Connection, findings: Findings) -> None:
    drawn = rows(db, "SELECT value FROM counters WHERE name = 'epoch'")
    if not drawn:
        findings.problem("the counter of epochs is missing")
    elif (scalar(db, "SELECT max(epoch) FROM sessions") or 0) > drawn[0][0]:
        findings.problem("a session has an epoch that was not drawn yet")
    twice = scalar(
        db, "SELECT count(*) FROM (SELECT 1 FROM sessions GROUP BY epoch HAVING count(*) > 1)"
    )
    if twice:
        findings.problem(f"epochs that several sessions have: {twice}")


def _rollup(db: apsw.Connection, findings: Findings) -> None:
    """The sums a day, which triggers keep, against the calls themselves."""
    names = [name for _, name, *_ in rows(db, "PRAGMA table_info(rollup)")]
    sums = ", ".join(f"sum({name})" for name in names if name not in ("scope", *_GROUP))
    group = ", ".join(_GROUP)
    wanted = (
        f"SELECT scope, {group}, {sums} FROM call_sums GROUP BY scope, {group} "
        f"UNION ALL SELECT '', {group}, {sums} FROM call_sums GROUP BY {group}"
    )
    held = f"SELECT {', '.join(names)} FROM rollup"
    for one, other in ((wanted, held), (held, wanted)):
        differing = f"SELECT * FROM ({one}) EXCEPT SELECT * FROM ({other})"
        count = scalar(db, f"SELECT count(*) FROM ({differing})")
        if count:
            findings.problem(f"sums a day that are not those of the model calls: {count}")
            return
