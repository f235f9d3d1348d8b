"""What idempotency keys stand for: the answers of earlier calls, and the records in them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from asynchistory.codec import Row, StoredRow, decode_row
from asynchistory.queries import Appended, Truncated
from asynchistory.records import StoredRecord
from asynchistory.storage.port import Batch, Cut, Key


def appended(batch: Batch, key: Key, *, replayed: bool) -> Appended:
    """The answer of an append, or a replace, that ``key`` stands for."""
    return Appended(
        session_id=batch.session_id,
        epoch=key.epoch,
        first_seq=key.first_seq,
        last_seq=key.last_seq,
        replayed=replayed,
    )


def truncated(cut: Cut, key: Key, *, replayed: bool) -> Truncated:
    """The answer of a truncate, or a pop, that ``key`` stands for."""
    return Truncated(
        session_id=cut.session_id,
        epoch=key.epoch,
        seq=key.first_seq,
        removed=key.last_seq - key.first_seq,
        records=() if key.removed is None else unpack(cut.session_id, key.removed),
        replayed=replayed,
    )


def pack(rows: Iterable[tuple[int, Row]]) -> bytes:
    """The ``removed`` of a key: rows, each with its seq."""
    stored: list[StoredRow] = [
        (seq, row.type, row.timestamp, row.record_id, row.body.encode(), row.checksum)
        for seq, row in rows
    ]
    return msgspec.msgpack.encode(stored)


def unpack(session_id: str, removed: bytes) -> tuple[StoredRecord, ...]:
    """The records in the ``removed`` of a key."""
    return tuple(decode_row(session_id, tuple(row)) for row in msgspec.msgpack.decode(removed))
