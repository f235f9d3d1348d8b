"""The in-process cache: the newest records of each session, never stale by default.

It holds one thing per session: a tail of its newest records without a gap, with
the version it had. Reads put one in, appends extend it, everything else that
changes the session drops it.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from cachetools import LRUCache

from asynchistory.codec import Row, row_record
from asynchistory.errors import ConfigurationError, SessionNotFoundError
from asynchistory.flights import Flight, SingleFlight
from asynchistory.forks import own_lock
from asynchistory.queries import Appended, HistoryPage, HistoryQuery, Tail, Version
from asynchistory.records import CorruptRecord, StoredRecord
from asynchistory.runs import checkpoint_if_cancelled
from asynchistory.storage.cursors import parse_cursor
from asynchistory.storage.port import Storage
from asynchistory.storage.select import select

#: How current a read must be.
#: ``validated``: compared with the store's version; always current.
#: ``cached``: current for this process's writes, at most the TTL old for others'.
#: ``fresh``: from the store.
Level: TypeAlias = Literal["validated", "cached", "fresh"]

#: What a record costs beside its JSON: objects, and its place in the tail.
_OVERHEAD = 400
#: TTLs are cut by up to a tenth, so that what was loaded together does not expire together.
_JITTER = 0.1


class CacheStatistics(NamedTuple):
    """Counts since the cache was made, and what it holds now."""

    hits: int
    misses: int
    stale: int  #: misses whose tail was held but no longer current
    loads: int
    evictions: int
    sessions: int
    bytes: int


class _Entry:
    """A tail. What is appended to it becomes records only when somebody reads it."""

    __slots__ = ("_records", "_rows", "_sizes", "depth", "expires", "size", "version")

    def __init__(self, tail: Tail, depth: int, expires: float) -> None:
        self.depth = depth  # what readers want of it, and so what trimming leaves
        self.version = tail.version
        self.expires = expires
        self._records = list(tail.records)
        self._rows: list[tuple[int, Row]] = []
        self._sizes = [_OVERHEAD + len(msgspec.json.encode(record)) for record in tail.records]
        self.size = sum(self._sizes)  # about how many bytes it takes

    def __len__(self) -> int:
        return len(self._sizes)

    def extend(self, rows: Sequence[Row], version: Version) -> None:
        """Take what was appended, and let go of the oldest where there is more than enough."""
        self._rows += enumerate(rows, version.seq - len(rows) + 1)
        added = [_OVERHEAD + len(row.body) for row in rows]
        self._sizes += added
        self.size += sum(added)
        self.version = version
        if len(self) > 2 * self.depth:
            self._sizes = self._sizes[-self.depth :]
            self._rows = self._rows[-self.depth :]
            kept = self.depth - len(self._rows)
            self._records = self._records[-kept:] if kept else []
            self.size = sum(self._sizes)

    def records(self, session_id: str) -> list[StoredRecord]:
        """All that it holds."""
        if self._rows:
            self._records += [row_record(session_id, seq, row) for seq, row in self._rows]
            self._rows = []
        return self._records


class _Counting(LRUCache[str, _Entry]):
    evictions = 0

    def popitem(self) -> tuple[str, _Entry]:
        self.evictions += 1
        return super().popitem()


class TailCache:
    """Tails of one store's sessions, for all event loops and threads of the process.

    Args:
        max_bytes: about how much memory it may take; the least recently used go first.
        depth: how many records a read puts in, at least.
        ttl: seconds that the level ``cached`` trusts a tail.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        depth: int = 100,
        ttl: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < 0 or depth < 1 or not 0 < ttl < float("inf"):
            raise ConfigurationError(
                "a cache needs max_bytes >= 0, depth >= 1 and a positive, finite ttl"
            )
        self.depth = depth
        self.ttl = ttl
        self._clock = clock
        self._lock = own_lock(self, "_lock")
        self._entries = _Counting(max_bytes, getsizeof=lambda entry: entry.size)
        self._flights: SingleFlight[str, Tail] = SingleFlight()
        self._storage: weakref.ref[Storage] | None = None
        self._hits = self._misses = self._stale = self._loaded = 0

    def bind(self, storage: Storage) -> None:
        """Say whose sessions these are.

        Raises:
            ConfigurationError: it serves another store already.
        """
        with self._lock:
            owner = self._storage() if self._storage is not None else None
            if owner not in (None, storage):
                raise ConfigurationError("this cache serves another store; make one for each")
            self._storage = weakref.ref(storage)

    # -- reads

    async def tail(self, storage: Storage, session_id: str, count: int, level: Level) -> Tail:
        """The newest ``count`` records.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        if level == "fresh":
            return await self._read_store(storage, session_id, count)

        def enough(entry: _Entry) -> bool:
            return len(entry) >= min(count, entry.version.seq)

        held, version = await self._lookup(storage, session_id, level, enough)
        if held is None:
            held = await self._load(storage, session_id, count, version)
        return Tail(held.version, held.records[max(0, len(held.records) - count) :])

    async def page(self, storage: Storage, query: HistoryQuery, level: Level) -> HistoryPage | None:
        """The answer to a query that falls inside the tail; None if it does not."""
        session_id = query.session_id
        held, version = await self._lookup(
            storage, session_id, level, lambda entry: _covers(entry, query)
        )
        if held is None and level != "fresh":
            version = version or await storage.version(session_id)
            if version is None:
                raise SessionNotFoundError(session_id)
            if version.seq <= self.depth:
                held = await self._load(storage, session_id, self.depth, version)
                if len(held.records) < held.version.seq:
                    return None  # it grew past the depth meanwhile
        if held is None or (_filtered(query) and _is_damaged(held)):
            return None
        return select(held.records, query, held.version.epoch)

    def peek(self, session_id: str, count: int) -> tuple[StoredRecord, ...] | None:
        """The newest ``count`` records as level ``cached`` has them, None if it does not.

        Needs no event loop and never waits for the store.
        """
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is None or not self._live(entry):
                return None
            if len(entry) < min(count, entry.version.seq):
                return None
            self._hits += 1
            return tuple(entry.records(session_id)[-count:]) if count else ()

    async def _lookup(
        self,
        storage: Storage,
        session_id: str,
        level: Level,
        enough: Callable[[_Entry], bool],
    ) -> tuple[Tail | None, Version | None]:
        """What is held, if it is current and enough; and the store's version, if it was asked."""
        if level == "fresh":
            return None, None
        version = None
        if level == "validated":
            version = await storage.version(session_id)
            if version is None:
                self.drop(session_id)
                raise SessionNotFoundError(session_id)
        else:
            await checkpoint_if_cancelled()
        with self._lock:
            entry = self._entries.get(session_id)
            current = entry is not None and (
                entry.version >= version if version is not None else self._live(entry)
            )
            if entry is not None and current and enough(entry):
                self._hits += 1
                return Tail(entry.version, tuple(entry.records(session_id))), version
            self._misses += 1
            self._stale += entry is not None and not current
            return None, version

    def _live(self, entry: _Entry) -> bool:
        return self._clock() < entry.expires

    # -- loads

    async def _load(
        self, storage: Storage, session_id: str, count: int, version: Version | None
    ) -> Tail:
        depth = max(count, self.depth)
        while True:
            tail = await self._flights.run(
                session_id,
                lambda flight: self._read_store(storage, session_id, depth, flight),
            )
            # One that was under way before this call may be too short, or may have missed
            # another process's write.
            enough = len(tail.records) >= min(count, tail.version.seq)
            if enough and (version is None or tail.version >= version):
                return tail

    async def _read_store(
        self, storage: Storage, session_id: str, count: int, flight: Flight[Tail] | None = None
    ) -> Tail:
        with self._lock:
            self._loaded += 1
        tail = await storage.tail(session_id, count)
        if tail is None:
            self.drop(session_id)
            raise SessionNotFoundError(session_id)
        if flight is not None:
            with self._lock:
                if not flight.detached:
                    self._keep(session_id, tail)
        return tail

    def _keep(self, session_id: str, tail: Tail) -> None:
        held = self._entries.get(session_id)
        if held is not None and held.version > tail.version:
            return
        expires = self._clock() + self.ttl * random.uniform(1 - _JITTER, 1)
        if held is not None and held.version == tail.version:
            held.expires = expires  # it has just been found to be current
            if len(held) >= len(tail.records):
                return
        depth = max(self.depth, len(tail.records))
        self._put(session_id, _Entry(tail, depth, expires))

    def _put(self, session_id: str, entry: _Entry) -> None:
        try:
            self._entries[session_id] = entry
        except ValueError:  # larger than the whole cache
            self._entries.pop(session_id, None)

    # -- writes

    def wrote(self, appended: Appended, rows: Sequence[Row]) -> None:
        """Records were appended."""
        session_id = appended.session_id
        # In this order: a load that ended in between has left an entry.
        if session_id not in self._flights and session_id not in self._entries:
            return
        version = Version(appended.epoch, appended.last_seq)
        with self._lock:
            self._flights.detach([session_id])
            entry = self._entries.get(session_id)
            if entry is None or entry.version >= version:
                return
            if entry.version != Version(version.epoch, version.seq - len(rows)):
                del self._entries[session_id]  # another write came between
                return
            entry.extend(rows, version)
            self._put(session_id, entry)

    def drop(self, session_id: str) -> None:
        """The session changed in another way than by an append."""
        with self._lock:
            self._flights.detach([session_id])
            self._entries.pop(session_id, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._flights.detach(lambda _session_id: True)
            for session_id in list(self._entries):  # clear() would count them as evictions
                del self._entries[session_id]

    def statistics(self) -> CacheStatistics:
        """Counts since the cache was made."""
        with self._lock:
            return CacheStatistics(
                self._hits,
                self._misses,
                self._stale,
                self._loaded,
                self._entries.evictions,
                len(self._entries),
                int(self._entries.currsize),
            )


def _covers(entry: _Entry, query: HistoryQuery) -> bool:
    if len(entry) == entry.version.seq:
        return True
    if _filtered(query) or query.with_total or query.before is not None:
        return False
    if query.after is not None:
        epoch, seq = parse_cursor(query.after)
        missing = entry.version.seq - len(entry)
        return not query.newest and epoch == entry.version.epoch and seq >= missing
    return query.newest and query.offset + query.limit < len(entry)


def _filtered(query: HistoryQuery) -> bool:
    times = query.start_time is not None or query.end_time is not None
    return times or query.record_types is not None or query.model is not None


def _is_damaged(tail: Tail) -> bool:
    # What a damaged record was only the store may still know.
    return any(isinstance(record, CorruptRecord) for record in tail.records)


_shared: weakref.WeakKeyDictionary[Storage, TailCache] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


def tails_of(storage: Storage) -> TailCache:
    """The cache that all managers of a store share unless they are given one."""
    with _shared_lock:
        cache = _shared.get(storage)
        if cache is None:
            cache = _shared[storage] = TailCache()
            cache.bind(storage)
        return cache
