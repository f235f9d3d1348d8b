"""The check of all that is stored against itself, as of one moment, while writes go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from asynchistory.codec import TYPE_CODES, StoredRow, decode_row
from asynchistory.queries import Verification
from asynchistory.records import CorruptRecord
from asynchistory.storage.calls import CALL_TYPES, CallFacts, calls_in
from asynchistory.storage.findings import Findings
from asynchistory.storage.keys import unpack
from asynchistory.storage.postgres.arrays import unstored
from asynchistory.storage.postgres.rollup import GROUP, SUMS
from asynchistory.storage.postgres.segments import COLUMNS
from asynchistory.storage.postgres.sql import Statements

#: Sessions, and records of them, that are looked at together.
_SESSIONS, _RECORDS = 500, 5_000
_TEXTS = ("request", "provider", "model", "finish_reason", "currency")


class _Session(NamedTuple):
    sid: int
    id: str
    metadata: str
    epoch: int
    seq: int
    fork_seq: int
    base: int | None
    base_seq: int
    family: int | None
    base_reaches: int | None
    base_family: int | None


_COLUMNS = ", ".join(f"s.{name}" for name in _Session._fields[:9])
_SOME = (
    f"SELECT {_COLUMNS}, b.seq, coalesce(b.family, b.sid) FROM sessions s "
    "LEFT JOIN sessions b ON b.sid = s.base WHERE s.sid > %s ORDER BY s.sid LIMIT %s"
)


async def verify(db: Statements) -> Verification:
    """See :meth:`asynchistory.storage.port.Storage.verify`."""
    findings = Findings()
    async with db.one_moment("SET LOCAL statement_timeout = 0"):
        chunks = _chunks(db)
        async with aclosing(chunks):
            async for some in chunks:
                await _check(db, some, findings)
        for check in (_strays, _keys, _epochs, _rollup):
            await check(db, findings)
    return findings.result()


async def _chunks(db: Statements) -> AsyncGenerator[list[_Session], None]:
    """All sessions, some at a time: many of few records, or one of many."""
    last = 0
    while found := await db.rows(_SOME, (last, _SESSIONS)):
        some: list[_Session] = []
        records = 0
        for session in map(_Session._make, found):
            own = session.seq - session.base_seq
            if some and records + own > _RECORDS:
                yield some
                some, records = [], 0
            some.append(session)
            records += own
        yield some
        last = found[-1][0]


async def _check(db: Statements, sessions: Sequence[_Session], findings: Findings) -> None:
    sids = [session.sid for session in sessions]
    calls: dict[int, dict[str, CallFacts]] = {}
    columns = ", ".join(CallFacts._fields)
    for sid, *row in await db.rows(
        f"SELECT sid, {columns} FROM calls WHERE sid = ANY(%s)", (sids,)
    ):
        facts = _facts(row)
        calls.setdefault(sid, {})[facts.request] = facts
    checks = {session.sid: _Check(session, findings) for session in sessions}
    chunks = db.stream(
        f"SELECT r.sid, {COLUMNS} FROM records r WHERE r.sid = ANY(%s) ORDER BY r.sid, r.seq",
        (sids,),
    )
    async with aclosing(chunks):
        async for rows in chunks:
            for row in rows:
                checks[row[0]].record(row[1:])
    for sid, check in checks.items():
        check.end(calls.get(sid, {}))


def _facts(row: Sequence[Any]) -> CallFacts:
    named = dict(zip(CallFacts._fields, row, strict=True))
    for name in _TEXTS:
        if named[name] is not None:
            named[name] = unstored(named[name])
    return CallFacts(**named)


class _Check:
    """One session, and the records that it keeps itself: those after the ones that it rests on.

    Where each session has its own without a gap, and rests on one that reaches
    as far, each has all of its records.
    """

    def __init__(self, session: _Session, findings: Findings) -> None:
        self.session = session
        self.findings = findings
        self._expected = session.base_seq + 1
        self._described: list[tuple[int, int, bytes]] = []
        self._whole = True
        findings.sessions += 1

    def record(self, row: StoredRow) -> None:
        self.findings.records += 1
        seq, code, moment, _, body, _ = row
        if seq < self._expected:
            self._problem(f"record {seq} does not belong to it")
        elif seq > self._expected:
            self._problem(f"records {self._expected} to {seq - 1} are missing")
        self._expected = seq + 1
        record = decode_row(self.session.id, row)
        if not isinstance(record, CorruptRecord) and TYPE_CODES[record.record_type] != code:
            record = CorruptRecord(session_id=self.session.id, seq=seq, reason="type")
        if isinstance(record, CorruptRecord):
            self._whole = False
            self.findings.damage(record)
        elif code in CALL_TYPES and seq > self.session.fork_seq:
            self._described.append((code, moment, body))

    def end(self, calls: dict[str, CallFacts]) -> None:
        if self._expected != self.session.seq + 1:
            self._problem(f"its newest record is {self._expected - 1}, and not {self.session.seq}")
        for fault in _faults(self.session):
            self._problem(fault)
        # What a damaged record said of a call nobody can tell.
        if self._whole and calls != calls_in(self._described):
            self._problem("its model calls are not those of its records")

    def _problem(self, text: str) -> None:
        self.findings.problem(f"session {self.session.id!r}: {text}")


def _faults(session: _Session) -> Iterator[str]:
    if not _is_object(session.metadata):
        yield "its metadata is not a JSON object"
    if not 0 <= session.fork_seq <= session.seq:
        yield f"fork_seq {session.fork_seq} is not within its {session.seq} records"
    if session.base is None:
        if session.base_seq:
            yield f"it lacks the session that its first {session.base_seq} records rest on"
    elif session.base_reaches is None:
        yield f"the session that its first {session.base_seq} records rest on is missing"
    elif not 0 < session.base_seq <= min(session.base_reaches, session.seq):
        yield f"it cannot rest on another session up to seq {session.base_seq}"
    elif session.base_family != session.family:
        yield "it rests on a session of another family"


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.MsgspecError, RecursionError):
        return False


async def _strays(db: Statements, findings: Findings) -> None:
    """Rows of sessions that there are not."""
    for table, name in (("records", "record"), ("calls", "model call"), ("idempotency", "key")):
        count = await db.scalar(
            f"SELECT count(*) FROM {table} t "
            "WHERE NOT EXISTS (SELECT FROM sessions s WHERE s.sid = t.sid)"
        )
        if count:
            findings.problem(f"{count} {name}{'s' * (count > 1)} of a session that is missing")


async def _keys(db: Statements, findings: Findings) -> None:
    chunks = db.stream(
        "SELECT s.id, s.epoch, i.epoch, i.first_seq, i.last_seq, i.removed "
        "FROM idempotency i JOIN sessions s USING(sid)"
    )
    async with aclosing(chunks):
        async for rows in chunks:
            for name, newest, epoch, first, last, removed in rows:
                # A key of a truncate, or of a replace by nothing, stands for no records.
                if not (epoch <= newest and 0 <= first <= last + 1 and _opens(name, removed)):
                    findings.problem(
                        f"session {name!r}: the answer of an idempotency key is damaged"
                    )


def _opens(name: str, removed: bytes | None) -> bool:
    if removed is None:
        return True
    try:
        return not any(isinstance(record, CorruptRecord) for record in unpack(name, removed))
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False


async def _epochs(db: Statements, findings: Findings) -> None:
    # The sequence is not part of the moment: it only grows.
    drawn = await db.scalar("SELECT last_value FROM epochs")
    if (await db.scalar("SELECT max(epoch) FROM sessions") or 0) > drawn:
        findings.problem("a session has an epoch that was not drawn yet")
    twice = await db.scalar(
        "SELECT count(*) FROM (SELECT FROM sessions GROUP BY epoch HAVING count(*) > 1) t"
    )
    if twice:
        findings.problem(f"epochs that several sessions have: {twice}")


async def _rollup(db: Statements, findings: Findings) -> None:
    """The sums a day, which triggers keep, against the calls themselves."""
    group, sums = ", ".join(GROUP), ", ".join(f"sum({name})::bigint" for name in SUMS)
    wanted = (
        f"SELECT scope, {group}, {sums} FROM call_sums GROUP BY scope, {group} "
        f"UNION ALL SELECT '', {group}, {sums} FROM call_sums GROUP BY {group}"
    )
    empty = " OR ".join(f"sum({name}) <> 0" for name in SUMS)
    held = f"SELECT scope, {group}, {sums} FROM rollup GROUP BY scope, {group} HAVING {empty}"
    for one, other in ((wanted, held), (held, wanted)):
        count = await db.scalar(
            f"SELECT count(*) FROM (SELECT * FROM ({one}) a EXCEPT SELECT * FROM ({other}) b) c"
        )
        if count:
            findings.problem(f"sums a day that are not those of the model calls: {count}")
            return
