"""How a tail stands in Redis: one text value, which an append can extend in its place.

::

    T00000000000000000007 00000000000000000042     kind, epoch, seq
    "asynchistory:1:...:chat-1"                    the key itself
    41 1 1764140400000000 0193...c1 2843562 {...}  seq, type, time, id, checksum, JSON
    42 ...

Of kind ``T`` it is a tail. Of kind ``B`` it is buried: there are no records, and none of
this version or an older one are taken. Versions have a fixed width, so that a script compares
them as text and writes them in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from asynchistory.codec import Row, StoredRow, decode_rows, encode_record
from asynchistory.queries import Tail, Version
from asynchistory.records import CorruptRecord

#: Of what is written here. It is part of each key, so that versions of this library that
#: write something else do not meet.
SCHEMA = 1


def stamp(version: Version) -> bytes:
    """A version, so that text is in the order of versions."""
    return b"%020d %020d" % version


def head(key: bytes) -> bytes:
    """The line that names the key, and so tells a value that stands under another one."""
    return msgspec.json.encode(key.decode()) + b"\n"


def lines(rows: Sequence[Row], seq: int) -> bytes:
    """Rows, of which the last has this seq."""
    first = seq - len(rows) + 1
    return b"".join(_line(number, row) for number, row in enumerate(rows, first))


def _line(seq: int, row: Row) -> bytes:
    code, timestamp, record_id, body, checksum = row
    start = f"{seq} {code} {timestamp} {record_id.hex()} {checksum} "
    return f"{start}{body}\n".encode()


def pack(key: bytes, tail: Tail) -> bytes | None:
    """A tail as it is kept; None for one that has a damaged record in it."""
    rows: list[Row] = []
    for record in tail.records:
        if isinstance(record, CorruptRecord):
            return None
        rows.append(encode_record(record))
    return b"T" + stamp(tail.version) + b"\n" + head(key) + lines(rows, tail.version.seq)


def unpack(value: object, key: bytes, session_id: str, version: Version) -> Tail | None:
    """The tail of this version that a value holds; None if it holds anything else.

    Each record has its checksum, and the seqs lead without a gap to the version's:
    so it is whole, or it is nothing.
    """
    start = b"T" + stamp(version) + b"\n" + head(key)
    if not isinstance(value, bytes) or not value.startswith(start) or not value.endswith(b"\n"):
        return None
    try:
        rows = [_row(line) for line in value[len(start) : -1].split(b"\n")]
    except ValueError:
        return None
    first = version.seq - len(rows) + 1
    if first < 1 or not _without_gap(rows, first):
        return None
    records = tuple(decode_rows(session_id, rows))
    if any(isinstance(record, CorruptRecord) for record in records):
        return None
    return Tail(version, records)


def _row(line: bytes) -> StoredRow:
    seq, code, timestamp, record_id, checksum, body = line.split(b" ", 5)
    return (
        int(seq),
        int(code),
        int(timestamp),
        bytes.fromhex(record_id.decode()),
        body,
        int(checksum),
    )


def _without_gap(rows: Iterable[StoredRow], first: int) -> bool:
    return all(row[0] == seq for seq, row in enumerate(rows, first))
