"""Lines of an export into a store: each session as a whole, many at a time, in their order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskStatus

from asynchistory.archive import Archived, read
from asynchistory.codec import encode_record
from asynchistory.errors import (
    ArchiveError,
    AsyncHistoryError,
    EpochChangedError,
    InvalidInputError,
    SessionDiffersError,
    SessionExistsError,
    SessionNotFoundError,
)
from asynchistory.manager.base import Base
from asynchistory.queries import HistoryQuery, Imported, Session
from asynchistory.records import CorruptRecord
from asynchistory.storage.calls import call_facts
from asynchistory.storage.cursors import make_cursor
from asynchistory.storage.port import Storage

#: So many lines are stored at a time, or fewer if one is long: their bytes are bounded by this.
WINDOW = 50
WINDOW_BYTES = 16 * 1024 * 1024
#: Records of a session that is there already are compared so many at a time.
PAGE = 500
#: What a session that is there already must have in common with a line.
_FIELDS = ("user_id", "title", "metadata", "created_at", "expires_at", "fork_seq")

_canonical = msgspec.json.Encoder(order="deterministic").encode

AnyLines: TypeAlias = Iterable[bytes | str] | AsyncIterable[bytes | str]


class _Window(NamedTuple):
    """What some lines hold, up to the first with which something is wrong."""

    sessions: list[Archived]
    fault: ArchiveError | None = None


class _Lines:
    """Lines from wherever they come, read and checked a window at a time.

    Both is done in a worker thread, so that a slow file or a long line does not
    hold up the loop.
    """

    def __init__(self, lines: AnyLines) -> None:
        if isinstance(lines, (str, bytes, os.PathLike)) or not isinstance(
            lines, (AsyncIterable, Iterable)
        ):
            raise InvalidInputError(
                "an import takes lines, such as those of a file that is open: open(path, 'rb')"
            )
        self._number = 0
        self._lines: Iterator[bytes | str] | AsyncIterator[bytes | str]
        self._lines = aiter(lines) if isinstance(lines, AsyncIterable) else iter(lines)

    async def window(self) -> _Window | None:
        """The next lines' sessions, None at the end."""
        taken: list[bytes | str] = []
        if isinstance(self._lines, AsyncIterator):
            async for line in self._lines:
                taken.append(line)
                if _full(taken):
                    break
        return await anyio.to_thread.run_sync(self._read, taken, abandon_on_cancel=True)

    def _read(self, taken: list[bytes | str]) -> _Window | None:
        if isinstance(self._lines, Iterator):
            for line in self._lines:
                taken.append(line)
                if _full(taken):
                    break
        sessions: list[Archived] = []
        for line in taken:
            self._number += 1
            try:
                data = _bytes(line)
                if data.strip():
                    sessions.append(read(data))
            except InvalidInputError as error:
                return _Window(sessions, ArchiveError(self._number, str(error)))
        return _Window(sessions) if taken else None


def _full(taken: list[bytes | str]) -> bool:
    # The newest alone is looked at for its size: a window of long lines is one line.
    newest = taken[-1]
    size = len(newest) if isinstance(newest, (str, bytes)) else 0
    return len(taken) >= WINDOW or size >= WINDOW_BYTES // WINDOW


def _bytes(line: bytes | str) -> bytes:
    try:
        return line.encode() if isinstance(line, str) else bytes(memoryview(line))
    except (TypeError, UnicodeEncodeError):
        raise InvalidInputError("it is not text in UTF-8") from None


async def import_lines(history: Base, lines: AnyLines, exist_ok: bool) -> Imported:
    """See :meth:`asynchistory.AsyncHistoryManager.import_`."""
    source = _Lines(lines)
    sessions = records = skipped = damaged = 0
    while (window := await source.window()) is not None:
        added = await _store(history, window.sessions, exist_ok)
        sessions += len(added)
        records += sum(len(archived.rows) for archived in added)
        damaged += sum(archived.damaged for archived in added)
        skipped += len(window.sessions) - len(added)
        if window.fault is not None:
            raise window.fault
    return Imported(sessions=sessions, records=records, skipped=skipped, damaged=damaged)


async def _store(history: Base, window: list[Archived], exist_ok: bool) -> list[Archived]:
    """Store these side by side; returns those that were not there already."""
    added: list[Archived] = []
    faults: dict[int, AsyncHistoryError] = {}

    async def one(place: int, *, task_status: TaskStatus[None]) -> None:
        # Its write is queued before anybody else runs. So they are stored in their order, on
        # trio too, and a session is there before those that were forked from it.
        task_status.started()
        try:
            if await bring(history, window[place], exist_ok=exist_ok):
                added.append(window[place])
        except AsyncHistoryError as error:
            faults[place] = error

    async with anyio.create_task_group() as tasks:
        for place in range(len(window)):
            await tasks.start(one, place)
    if faults:
        raise faults[min(faults)]
    return added


async def bring(history: Base, archived: Archived, *, exist_ok: bool = False) -> bool:
    """Store a session unless it is there; whether it was not.

    Raises:
        SessionDiffersError: it is there with other contents, and not ``exist_ok``.
    """
    while not await _restored(history, archived):
        same = True if exist_ok else await _same(history.storage, archived)
        if same:
            return False
        if same is not None:
            raise SessionDiffersError(archived.session.id)
    return True


async def _restored(history: Base, archived: Archived) -> bool:
    session, records, rows, keys, *_ = archived
    own = slice(session.fork_seq, None)
    try:
        await history.storage.restore(session, rows, call_facts(records[own], rows[own]), keys)
    except SessionExistsError:
        return False
    except BaseException:
        history._rewritten(session.id)  # whatever ended the wait, it may be stored
        raise
    history._rewritten(session.id)
    return True


async def _same(storage: Storage, archived: Archived) -> bool | None:
    """Whether the session that is there is this one; None if it changed meanwhile."""
    found = await storage.get_session(archived.session.id)
    if found is None:
        return None
    if archived.version > 1 and not _same_fields(found, archived):
        return False
    place = seq = 0
    try:
        while seq < found.seq:
            cursor = make_cursor(found.epoch, seq)
            page = await storage.read(HistoryQuery(found.id, after=cursor, limit=PAGE))
            whole = [record for record in page if not isinstance(record, CorruptRecord)]
            wanted = archived.rows[place : place + len(whole)]
            if len(wanted) < len(whole):
                return False
            for record, row in zip(whole, wanted, strict=True):
                there = encode_record(record)
                # A line of version 1 may have come in another way, with other ids and times.
                if there.body != row.body or (archived.version > 1 and there != row):
                    return False
            place += len(whole)
            seq = page.records[-1].seq if page.records else found.seq
    except (EpochChangedError, SessionNotFoundError):
        return None
    return place == len(archived.rows)


def _same_fields(found: Session, archived: Archived) -> bool:
    # Where records were damaged, those before a fork may be fewer here than there.
    names = _FIELDS[:-1] if archived.damaged else _FIELDS
    one, other = (
        [getattr(session, name) for name in names] for session in (found, archived.session)
    )
    # As JSON, or a 1 in the metadata would be equal to true.
    return _canonical(one) == _canonical(other)
