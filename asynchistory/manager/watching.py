"""The manager's live view of a session: its records as they are stored."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import anyio.lowlevel

from asynchistory.checks import check_seq, check_session_id
from asynchistory.errors import (
    EpochChangedError,
    InvalidQueryError,
    NotOpenError,
    SessionNotFoundError,
)
from asynchistory.manager.reading import Reading
from asynchistory.queries import HistoryQuery, Version
from asynchistory.records import StoredRecord
from asynchistory.storage.cursors import make_cursor

#: So many records are read ahead of a slow reader, and no more.
READ_AHEAD = 100


class Watch:
    """A session's records as they are stored; made by :meth:`AsyncHistoryManager.watch`.

    To be entered with ``async with`` and iterated by one task at a time. A wait for
    the next record can be cancelled, also by a timeout, and begun again: nothing is
    lost by it. To go on in another watch later, keep the last record's ``seq`` and
    this watch's ``epoch``.

    Attributes:
        session_id: the session.
        epoch: the session's epoch, from when the watch was entered.
        seq: the record handed out last, or the one to begin after.
        after_seq: the one to begin after, from when the watch was entered.
    """

    def __init__(
        self, history: Reading, session_id: str, after_seq: int | None, epoch: int | None
    ) -> None:
        self.session_id: str = session_id
        self.epoch: int = epoch or 0
        self.seq: int = after_seq or 0
        self.after_seq: int = self.seq
        self._history = history
        self._wanted = (after_seq, epoch)
        self._ahead: deque[StoredRecord] = deque()
        self._open = False

    async def __aenter__(self) -> Self:
        version = await self._history.storage.version(self.session_id)
        if version is None:
            raise SessionNotFoundError(self.session_id)
        after_seq, epoch = self._wanted
        if epoch not in (None, version.epoch):
            raise self._rewritten()
        if after_seq is not None and after_seq > version.seq:
            raise InvalidQueryError(
                f"session {self.session_id!r} stands at seq {version.seq}; "
                "watch it after that one or one before"
            )
        self.epoch = version.epoch
        self.after_seq = self.seq = version.seq if after_seq is None else after_seq
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        self._ahead.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredRecord:
        if not self._open:
            raise NotOpenError("a watch is read inside its `async with` block")
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._ahead:
            await self._read()
        record = self._ahead.popleft()
        self.seq = record.seq
        return record

    async def _read(self) -> None:
        # What is at hand at once, from a store or cache in memory, must not keep the loop busy.
        await anyio.lowlevel.checkpoint()
        history = self._history
        await history.storage.changed(self.session_id, Version(self.epoch, self.seq))
        query = HistoryQuery(
            self.session_id, after=make_cursor(self.epoch, self.seq), limit=READ_AHEAD
        )
        try:
            self._ahead.extend(await history.query_history(query, level=history._current))
        except EpochChangedError:
            raise self._rewritten() from None

    def _rewritten(self) -> EpochChangedError:
        return EpochChangedError(
            self.session_id,
            "this watch, or the one that it goes on from, began; read the session again and "
            "watch it anew",
        )


class Watching(Reading):
    """What happens to a session, as it happens."""

    def watch(
        self, session_id: str, *, after_seq: int | None = None, epoch: int | None = None
    ) -> Watch:
        """The records of a session as they are stored: each once, in the order of ``seq``.

        ::

            async with history.watch("chat-1") as records:
                async for record in records:
                    ...

        Records of this process arrive at once, those of others within a tenth of a
        second. What comes while the reader is busy stays in the store until it is
        asked for: nothing is lost, and at most a hundred records are held. There is no end;
        leave the block.

        Args:
            session_id: the session, which must exist: ``create_session`` with
                ``exist_ok=True`` makes sure of that.
            after_seq: begin behind this record; 0 for all there are. None: only new ones.
            epoch: refuse unless this is the session's epoch, to which ``after_seq`` belongs.

        Raises:
            SessionNotFoundError: there is no such session, or it was deleted meanwhile.
            EpochChangedError: it was truncated, replaced, or deleted and made again; what
                was handed out may no longer be there.
            InvalidQueryError: ``after_seq`` is past its newest record.
            NotOpenError: the history was closed meanwhile.
        """
        check_session_id(session_id)
        check_seq(after_seq, "after_seq")
        check_seq(epoch, "epoch")
        return Watch(self, session_id, after_seq, epoch)
