"""A query answered over records in memory: by the memory store, and by a cached tail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asynchistory.errors import CorruptRecordError
from asynchistory.queries import HistoryPage, HistoryQuery
from asynchistory.records import CorruptRecord, StoredRecord
from asynchistory.storage.cursors import make_cursor, seq_of


def select(records: Sequence[StoredRecord], query: HistoryQuery, epoch: int) -> HistoryPage:
    """What ``query`` finds in a whole session's ``records``.

    Raises:
        EpochChangedError: the query's cursor is from another epoch.
        CorruptRecordError: a record is damaged and the query is ``strict``.
    """
    found = [record for record in records if _wanted(record, query)]
    total = len(found) if query.with_total else None
    if query.after is not None:
        seq = seq_of(query.after, query.session_id, epoch)
        found = [record for record in found if record.seq > seq]
    if query.before is not None:
        seq = seq_of(query.before, query.session_id, epoch)
        found = [record for record in found if record.seq < seq]
    backwards = query.newest or query.before is not None
    if backwards:
        found.reverse()
    page = found[query.offset : query.offset + query.limit]
    more = len(found) > query.offset + query.limit
    cursor = make_cursor(epoch, page[-1].seq) if page and more else None
    if backwards:
        page.reverse()
    if query.strict:
        _refuse_damaged(page)
    return HistoryPage(records=tuple(page), total=total, next=cursor)


def _wanted(record: StoredRecord, query: HistoryQuery) -> bool:
    return all(_conditions(record, query))


def _conditions(record: StoredRecord, query: HistoryQuery) -> Iterator[bool]:
    # A damaged record has no type or time left to filter by: filters leave it out.
    if query.record_types is not None:
        yield record.record_type in query.record_types
    if query.model is not None:
        yield getattr(record, "model", None) == query.model
    timestamp = getattr(record, "timestamp", None)
    if query.start_time is not None:
        yield timestamp is not None and timestamp >= query.start_time
    if query.end_time is not None:
        yield timestamp is not None and timestamp < query.end_time


def _refuse_damaged(page: Sequence[StoredRecord]) -> None:
    for record in page:
        if isinstance(record, CorruptRecord):
            raise CorruptRecordError(record.session_id, record.seq, record.reason)
