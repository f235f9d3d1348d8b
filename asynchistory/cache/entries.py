"""What the tail cache holds: one entry a session, the least recently used going first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from asynchistory.codec import Row, row_record
from asynchistory.queries import Tail, Version
from asynchistory.records import StoredRecord

#: What a record costs beside its content: objects, and its place in the tail.
_OVERHEAD = 400
# In half of the time that JSON takes, which is a good part of a miss.
_packed = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
#: Records that are held back at most until those before them are known.
_MOST_AHEAD = 512


def size_of(records: Sequence[StoredRecord]) -> int:
    """About how many bytes these take."""
    try:
        content = _packed(records)
    except OverflowError:  # an integer of more than 64 bits
        content = _json(records)
    return len(content) + _OVERHEAD * len(records)


class Entry:
    """A tail. What is appended to it becomes records only when somebody reads it.

    Attributes:
        version: where the session stands with the tail's last record.
        expires: until when the level ``cached`` trusts it, by the cache's clock.
        depth: what readers want of it, and so what trimming leaves.
        size: about how many bytes it takes.
        ahead: what was appended behind a gap, by the seq of its first record, or None.
            While there is any, the tail is behind its own process's writes.
    """

    __slots__ = ("_records", "_rows", "ahead", "depth", "expires", "size", "version")

    def __init__(self, tail: Tail, depth: int, expires: float) -> None:
        self.version: Version = tail.version
        self.expires: float = expires
        self.depth: int = depth
        self.size: int = size_of(tail.records)
        self.ahead: dict[int, Sequence[Row]] | None = None
        self._records = tail.records
        self._rows: list[Row] | None = None

    def __len__(self) -> int:
        rows = self._rows
        return len(self._records) + (len(rows) if rows else 0)

    def records(self, session_id: str) -> tuple[StoredRecord, ...]:
        """All that it holds."""
        rows = self._rows
        if rows is not None:
            first = self.version.seq - len(rows) + 1
            self._records += tuple(
                row_record(session_id, seq, row) for seq, row in enumerate(rows, first)
            )
            self._rows = None
        return self._records

    def newest(self, session_id: str, count: int) -> tuple[StoredRecord, ...] | None:
        """The newest ``count`` records, or all of the session; None if it holds fewer."""
        records = self._records if self._rows is None else self.records(session_id)
        spare = len(records) - count
        if spare > 0:
            return records[spare:]
        return records if not spare or len(records) == self.version.seq else None

    def extend(self, rows: Sequence[Row], version: Version) -> list[Row] | None:
        """Take what was appended, which leads to ``version``; None if it does not fit here.

        Tasks learn in any order of what they appended. So what comes before its
        turn is held back until those before it have come.

        Returns:
            The rows that the tail has grown by.
        """
        first = version.seq - len(rows) + 1
        if version.epoch != self.version.epoch or first <= self.version.seq:
            return None
        if first > self.version.seq + 1:
            self.ahead = self.ahead or {}
            self.ahead[first] = rows
            return [] if sum(map(len, self.ahead.values())) <= _MOST_AHEAD else None
        taken = list(rows)
        while self.ahead and (rows := self.ahead.pop(version.seq + 1, ())):
            taken += rows
            version = Version(version.epoch, version.seq + len(rows))
        self.ahead = self.ahead or None
        self._rows = taken if self._rows is None else self._rows + taken
        self.size += _bytes(taken)
        self.version = version
        if len(self) > 2 * self.depth:
            self._trim()
        return taken

    def _trim(self) -> None:
        """Let go of the oldest where there is more than enough."""
        rows = (self._rows or [])[-self.depth :]
        kept = self.depth - len(rows)
        self._records = self._records[-kept:] if kept else ()
        self._rows = rows or None
        self.size = size_of(self._records) + _bytes(rows)


def _bytes(rows: Sequence[Row]) -> int:
    return sum(len(row.body) for row in rows) + _OVERHEAD * len(rows)


class Entries(OrderedDict[str, Entry]):
    """The entries by session id, the least recently used first. All of it under a lock.

    An entry carries its size, so that a hit is two steps of a dictionary and nothing
    is kept beside it: half of the time and of the memory of cachetools' LRUCache.

    Args:
        max_bytes: the most that all entries take.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes: int = max_bytes
        self.bytes: int = 0
        self.evictions: int = 0

    def put(self, session_id: str, entry: Entry) -> None:
        """Hold this one, at the cost of others; not if it is larger than the whole cache."""
        if session_id in self:
            self.remove(session_id)
        if entry.size > self.max_bytes:
            return
        self[session_id] = entry
        self.bytes += entry.size
        while self.bytes > self.max_bytes:
            self.bytes -= self.popitem(last=False)[1].size
            self.evictions += 1

    def remove(self, session_id: str) -> Entry | None:
        """Let go of this one, if it is held. To be called before it changes its size."""
        entry = self.pop(session_id, None)
        if entry is not None:
            self.bytes -= entry.size
        return entry
