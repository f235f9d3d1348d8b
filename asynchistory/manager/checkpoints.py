"""The manager's checkpoints: named states of the application, at a place of a session."""

from __future__ import annotations

from msgspec.structs import replace

from asynchistory.checks import check_limit, check_session_id, check_text_id
from asynchistory.codec import from_microseconds
from asynchistory.errors import CheckpointNotFoundError, SessionNotFoundError
from asynchistory.manager.base import steadily
from asynchistory.manager.writing import Writing
from asynchistory.queries import HistoryQuery
from asynchistory.records import JSON, Checkpoint
from asynchistory.storage.cursors import make_cursor

#: So many are read at a time: their states may be large.
_PAGE = 20


class Checkpoints(Writing):
    """Places of a session to come back to.

    A checkpoint is a record of the session, so that its place says exactly what
    was there when it was saved. Going back to it is
    ``truncate(session_id, checkpoint.seq, epoch=checkpoint.epoch)``, and trying
    something else from it ``fork(session_id, at_seq=checkpoint.seq, epoch=checkpoint.epoch)``.
    Both keep the checkpoint itself, to which one can come back again.
    """

    async def save_checkpoint(
        self,
        session_id: str,
        name: str,
        state: JSON = None,
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Checkpoint:
        """Store a checkpoint at the end of a session, which is created if it is missing.

        Args:
            session_id: the session.
            name: 1 to 512 bytes of UTF-8. Of several with one name the newest counts.
            state: the application's own JSON.
            idempotency_key: see :meth:`append`.
            expected_seq: refuse unless this is the session's newest seq.

        Returns:
            The checkpoint as stored, with the ``epoch`` that goes with its ``seq``.

        Raises:
            InvalidRecordError: the state is not plain JSON.
            IdempotencyMismatchError: the key was used for something else.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        _check_name(name)
        record = Checkpoint(name=name, state=state)
        appended, [row] = await self._store(session_id, (record,), idempotency_key, expected_seq)
        stored = replace(
            record,
            seq=appended.first_seq,
            session_id=session_id,
            record_id=row.record_id.hex(),
            timestamp=from_microseconds(row.timestamp),
        )
        if appended.replayed:
            stored = await self._at(session_id, appended, record) or stored
        return _placed(stored, appended.epoch)

    async def get_checkpoint(self, session_id: str, name: str) -> Checkpoint:
        """The newest checkpoint of this name, with the session's epoch.

        Raises:
            SessionNotFoundError: there is no such session.
            CheckpointNotFoundError: it has no checkpoint of this name.
        """
        _check_name(name)
        for checkpoint in await self._newest(session_id, 1, name):
            return checkpoint
        raise CheckpointNotFoundError(session_id, name)

    async def list_checkpoints(
        self, session_id: str, *, name: str | None = None, limit: int = 100
    ) -> tuple[Checkpoint, ...]:
        """The newest ``limit`` checkpoints, oldest first, with the session's epoch.

        Damaged ones are left out.

        Args:
            session_id: the session.
            name: only those of this name.
            limit: at most so many.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        if name is not None:
            _check_name(name)
        check_limit(limit)
        return tuple(reversed(await self._newest(session_id, limit, name)))

    async def _newest(self, session_id: str, count: int, name: str | None) -> list[Checkpoint]:
        check_session_id(session_id)
        return await steadily(lambda: self._read_newest(session_id, count, name))

    async def _read_newest(self, session_id: str, count: int, name: str | None) -> list[Checkpoint]:
        """Newest first."""
        version = await self.storage.version(session_id)
        if version is None:
            raise SessionNotFoundError(session_id)
        found: list[Checkpoint] = []
        cursor: str | None = make_cursor(version.epoch, version.seq + 1)
        while cursor is not None and len(found) < count:
            page = await self.storage.read(
                HistoryQuery(session_id, record_types=("checkpoint",), before=cursor, limit=_PAGE)
            )
            found += [
                _placed(record, version.epoch)
                for record in reversed(page.records)
                if isinstance(record, Checkpoint) and name in (None, record.name)
            ]
            cursor = page.next
        return found[:count]


def _check_name(name: str) -> None:
    check_text_id("" if name is None else name, "a checkpoint's name")


def _placed(checkpoint: Checkpoint, epoch: int) -> Checkpoint:
    at_seq = checkpoint.seq - 1 if checkpoint.at_seq is None else checkpoint.at_seq
    return replace(checkpoint, at_seq=at_seq, epoch=epoch)
