"""The manager's writes of records: all or nothing, each with a known outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from asynchistory.checks import check_limit, check_seq, check_session_id, check_text_id
from asynchistory.codec import Row, bare, digest, encode_record
from asynchistory.errors import ConflictError, InvalidRecordError, OutcomeUnknownError
from asynchistory.manager.base import Base
from asynchistory.manager.recording import R, Recording
from asynchistory.queries import Appended, HistoryQuery, Truncated, Version
from asynchistory.records import AnyRecord
from asynchistory.storage.calls import call_facts
from asynchistory.storage.port import Batch, Cut


@contextmanager
def _naming(key: str | None) -> Iterator[None]:
    """Say of an unknown outcome with which key the call can be repeated."""
    try:
        yield
    except OutcomeUnknownError:
        raise OutcomeUnknownError(key) from None


class Writing(Base, Recording):
    """Appends, and what changes records that are there."""

    async def append(
        self,
        session_id: str,
        *records: AnyRecord,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        """Store records at the end of a session, which is created if it is missing.

        They are contiguous, all of them or none, and on disk when this returns.
        If it raises a cancellation, none is stored.

        Args:
            session_id: 1 to 512 bytes of UTF-8.
            records: one or more records.
            idempotency_key: the same key and content is stored once, however
                often it is tried. A key belongs to its session.
            expected_seq: refuse unless this is the session's newest seq.

        Raises:
            InvalidRecordError: a record is malformed; none is stored.
            IdempotencyMismatchError: the key was used with other content.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        appended, _ = await self._store(session_id, records, idempotency_key, expected_seq)
        return appended

    async def replace(
        self,
        session_id: str,
        *records: AnyRecord,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        """Put records, or none, in the place of all that a session has.

        All of it happens or nothing, with the same promises as :meth:`append`. The
        session begins a new epoch: cursors made before it raise
        :class:`EpochChangedError`. Forks keep what they share.

        Raises:
            InvalidRecordError: a record is malformed; nothing is changed.
            IdempotencyMismatchError: the key was used for something else.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        batch = self._batch("replace", session_id, records, idempotency_key, expected_seq)
        try:
            with _naming(idempotency_key):
                replaced = await self.storage.replace(batch)
        finally:
            self._rewritten(session_id)
        if not replaced.replayed:
            self.cache.bury(session_id, Version(replaced.epoch, replaced.last_seq))
        return replaced

    async def truncate(
        self,
        session_id: str,
        to_seq: int,
        *,
        epoch: int | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Truncated:
        """Keep a session's first ``to_seq`` records and remove those after.

        If any are removed, the session begins a new epoch. Forks keep what they
        share. Statistics are those of the records that are left.

        Args:
            session_id: the session.
            to_seq: the newest record that stays; 0 for none.
            epoch: refuse unless this is the session's epoch, to which ``to_seq`` belongs.
            idempotency_key: see :meth:`append`.
            expected_seq: refuse unless this is the session's newest seq.

        Raises:
            SessionNotFoundError: there is no such session.
            EpochChangedError: it was rewritten since; ``epoch`` is not its epoch.
            IdempotencyMismatchError: the key was used for something else.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        check_seq(to_seq, "to_seq")
        check_seq(epoch, "epoch")
        return await self._cut(
            Cut(session_id, to_seq=to_seq, epoch=epoch, expected_seq=expected_seq), idempotency_key
        )

    async def pop(
        self,
        session_id: str,
        count: int = 1,
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Truncated:
        """Remove the newest ``count`` records, or as many as there are, and hand them out.

        They are the ``records`` of the answer, oldest first; tried again with
        the same key it answers the same and removes nothing more.

        Raises:
            SessionNotFoundError: there is no such session.
            IdempotencyMismatchError: the key was used for something else.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        check_limit(count, "count")
        return await self._cut(
            Cut(session_id, newest=count, keep=True, expected_seq=expected_seq), idempotency_key
        )

    async def _cut(self, cut: Cut, key: str | None) -> Truncated:
        check_session_id(cut.session_id)
        check_text_id(key, "an idempotency key")
        check_seq(cut.expected_seq, "expected_seq")
        if key is not None:
            content = digest(f"cut {cut.to_seq} {cut.newest}", ())
            cut = cut._replace(idempotency_key=key, digest=content)
        try:
            with _naming(key):
                truncated = await self.storage.truncate(cut)
        finally:
            self._rewritten(cut.session_id)
        if not truncated.replayed:
            self.cache.bury(cut.session_id, Version(truncated.epoch, truncated.seq))
        return truncated

    async def _store(
        self,
        session_id: str,
        records: Sequence[AnyRecord],
        idempotency_key: str | None,
        expected_seq: int | None,
    ) -> tuple[Appended, Sequence[Row]]:
        if not records:
            raise InvalidRecordError("append needs at least one record")
        batch = self._batch("append", session_id, records, idempotency_key, expected_seq)
        rows = batch.rows
        try:
            appended = await self.storage.append(batch)
        except ConflictError:
            raise
        except OutcomeUnknownError:
            self._rewritten(session_id)
            raise OutcomeUnknownError(idempotency_key) from None
        except BaseException:
            # Whatever ended the wait, the batch may be stored (or an outcome unknown).
            self._rewritten(session_id)
            raise
        if not appended.replayed:
            self.cache.wrote(appended, rows)
            self._announcements.announce(session_id)
        return appended, rows

    def _batch(
        self,
        operation: str,
        session_id: str,
        records: Sequence[AnyRecord],
        idempotency_key: str | None,
        expected_seq: int | None,
    ) -> Batch:
        check_session_id(session_id)
        check_text_id(idempotency_key, "an idempotency key")
        check_seq(expected_seq, "expected_seq")
        rows = list(map(encode_record, records))
        content = b"" if idempotency_key is None else digest(operation, rows)
        calls = call_facts(records, rows)
        return Batch(session_id, rows, calls, idempotency_key, content, expected_seq)

    async def _at(self, session_id: str, appended: Appended, record: R) -> R | None:
        query = HistoryQuery(session_id, offset=appended.first_seq - 1, limit=1)
        page = await self.storage.read(query)
        found = page.records[0] if page.records else None
        # The session may have been rewritten since, so that something else stands there.
        return found if isinstance(found, type(record)) and bare(found) == bare(record) else None
