"""Sessions out of a store, line by line."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Self

import anyio.lowlevel

from asynchistory.archive import encoded, line
from asynchistory.errors import NotOpenError, SessionNotFoundError
from asynchistory.manager.base import steadily
from asynchistory.queries import HistoryQuery, Session
from asynchistory.records import CorruptRecord, StoredRecord
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.cursors import make_cursor
from asynchistory.storage.port import Storage

#: So many sessions are listed at a time, and so many records read.
PAGE = 500


class Export:
    """The lines of an export; made by :meth:`AsyncHistoryManager.export`.

    To be entered with ``async with`` and iterated by one task at a time. A wait for
    the next line can be cancelled, and begun again: no session is left out by it.

    Attributes:
        sessions: how many sessions were handed out so far.
        records: how many records.
        damaged: how many records that are damaged, of which a line says no more than that.
    """

    def __init__(self, storage: Storage, session_id: str | None, user_id: str | None) -> None:
        self.sessions: int = 0
        self.records: int = 0
        self.damaged: int = 0
        self._storage = storage
        self._named = session_id
        self._user_id = user_id
        self._ahead: deque[str] = deque() if session_id is None else deque([session_id])
        self._after: str | None = None
        self._listed = session_id is not None
        self._open = False

    async def __aenter__(self) -> Self:
        if self._named is not None:
            await self._keys(self._named)
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._open:
            raise NotOpenError("an export is read inside its `async with` block")
        # What is at hand at once, from a store in memory, must not keep the loop busy.
        await anyio.lowlevel.checkpoint()
        while self._ahead or not self._listed:
            if not self._ahead:
                await self._list()
                continue
            session_id = self._ahead[0]
            try:
                found = await steadily(partial(self._line, session_id))
            except SessionNotFoundError:
                if self._named is not None:
                    raise
                found = b""  # deleted since it was listed
            self._ahead.popleft()
            if found:
                return found
        raise StopAsyncIteration

    async def _list(self) -> None:
        page = await self._storage.list_sessions(
            user_id=self._user_id, metadata=None, order="created", limit=PAGE, after=self._after
        )
        self._ahead.extend(session.id for session in page)
        self._after, self._listed = page.next, page.next is None

    async def _keys(self, session_id: str) -> SessionKeys:
        found = await self._storage.idempotency_keys(session_id)
        if found is None or self._user_id not in (None, found.session.user_id):
            raise SessionNotFoundError(session_id)
        return found

    async def _line(self, session_id: str) -> bytes:
        """A session as of one moment: that of its keys, at which its newest record is known."""
        session, keys = await self._keys(session_id)
        pieces: list[bytes] = []
        damaged = seq = 0
        while seq < session.seq:
            cursor = make_cursor(session.epoch, seq)
            page = await self._storage.read(HistoryQuery(session_id, after=cursor, limit=PAGE))
            # Others may have appended since. And where records are missing, _gapless says which.
            end = min(page.records[-1].seq, session.seq) if page.next else session.seq
            records = list(_gapless(session, page.records, seq, end))
            damaged += sum(isinstance(record, CorruptRecord) for record in records)
            pieces.append(encoded(records))
            seq = end
        self.sessions += 1
        self.records += session.seq - damaged
        self.damaged += damaged
        return line(session, pieces, keys)


def _gapless(
    session: Session, records: tuple[StoredRecord, ...], seq: int, end: int
) -> Iterator[StoredRecord]:
    """The records behind ``seq`` up to ``end``, a damaged one for each that is not there."""
    found = {record.seq: record for record in records}
    for place in range(seq + 1, end + 1):
        yield found.get(place) or CorruptRecord(session_id=session.id, seq=place, reason="missing")
