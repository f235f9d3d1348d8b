"""The manager's writes of records: all or nothing, each with a known outcome."""

from __future__ import annotations

from collections.abc import Sequence

from asynchistory.checks import check_expected_seq, check_session_id, check_text_id
from asynchistory.codec import Row, digest, encode_record, row_record
from asynchistory.errors import ConflictError, InvalidRecordError
from asynchistory.manager.base import Base
from asynchistory.manager.recording import Recording
from asynchistory.queries import Appended, HistoryQuery, Version
from asynchistory.records import AnyRecord, StoredRecord
from asynchistory.storage.calls import call_facts
from asynchistory.storage.port import Batch


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

    async def _store(
        self,
        session_id: str,
        records: Sequence[AnyRecord],
        idempotency_key: str | None,
        expected_seq: int | None,
    ) -> tuple[Appended, list[Row]]:
        check_session_id(session_id)
        check_text_id(idempotency_key, "an idempotency key")
        check_expected_seq(expected_seq)
        if not records:
            raise InvalidRecordError("append needs at least one record")
        rows = [encode_record(record) for record in records]
        batch = Batch(
            session_id,
            rows,
            call_facts(records, rows),
            idempotency_key,
            b"" if idempotency_key is None else digest("append", rows),
            expected_seq,
        )
        try:
            appended = await self.storage.append(batch)
        except ConflictError:
            raise
        except BaseException:
            # Whatever ended the wait, the batch may be stored (or an outcome unknown).
            self.cache.drop(session_id)
            raise
        if not appended.replayed:
            self.cache.wrote(
                session_id,
                Version(appended.epoch, appended.last_seq),
                lambda: [
                    row_record(session_id, seq, row)
                    for seq, row in enumerate(rows, appended.first_seq)
                ],
            )
        return appended, rows

    async def _at(self, session_id: str, appended: Appended) -> StoredRecord | None:
        """The record that an earlier call stored, if it is still there."""
        query = HistoryQuery(session_id, offset=appended.first_seq - 1, limit=1)
        page = await self.storage.read(query)
        return page.records[0] if page.records else None
