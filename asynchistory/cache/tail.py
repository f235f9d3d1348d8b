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

from asynchistory.cache.entries import Entries, Entry
from asynchistory.cache.tier import SecondTier, TierStatistics
from asynchistory.codec import Row
from asynchistory.errors import ConfigurationError, SessionNotFoundError
from asynchistory.flights import Flight, SingleFlight
from asynchistory.forks import in_child, own_lock
from asynchistory.queries import Appended, HistoryPage, HistoryQuery, Tail, Version
from asynchistory.records import CorruptRecord, StoredRecord
from asynchistory.runs import checkpoint_if_cancelled, in_trio
from asynchistory.storage.cursors import parse_cursor
from asynchistory.storage.port import Storage
from asynchistory.storage.select import select

#: How current a read must be.
#: ``validated``: compared with the store's version; always current.
#: ``cached``: current for this process's writes, at most the TTL old for others'.
#: ``fresh``: from the store.
Level: TypeAlias = Literal["validated", "cached", "fresh"]

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
    second: TierStatistics | None = None  #: of the second tier, None where there is none


class TailCache:
    """Tails of one store's sessions, for all event loops and threads of the process.

    Args:
        max_bytes: about how much memory it may take; the least recently used go first.
            With 0 it keeps nothing, and each read is answered by the store.
        depth: how many records a read puts in, at least.
        ttl: seconds that the level ``cached`` trusts a tail.
        second: where tails are looked for before the store is asked for them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        depth: int = 100,
        ttl: float = 300.0,
        second: SecondTier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < 0 or depth < 1 or not 0 < ttl < float("inf"):
            raise ConfigurationError(
                "a cache needs max_bytes >= 0, depth >= 1 and a positive, finite ttl"
            )
        self.max_bytes = max_bytes
        self.depth = depth
        self.ttl = ttl
        self.second: SecondTier | None = second
        self._clock = clock
        self._lock = own_lock(self, "_lock")
        self._storage: weakref.ref[Storage] | None = None
        self._hits = self._misses = self._stale = self._loaded = 0
        self._forget()
        in_child(self, "_forget")

    def _forget(self) -> None:
        # A forked child's copy may be half changed, and is of loads that are not its own.
        self._entries = Entries(self.max_bytes)
        self._flights: SingleFlight[str, Tail] = SingleFlight()

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
        if level == "fresh" or not self.max_bytes:
            return await self._read_store(storage, session_id, count)
        version = None
        if level == "validated":
            version = await self._required(storage, session_id)
        elif in_trio():
            await checkpoint_if_cancelled()
        with self._lock:
            entry = self._current(session_id, version)
            records = None if entry is None else entry.newest(session_id, count)
            if entry is not None and records is not None:
                self._hits += 1
                return Tail(entry.version, records)
            self._misses += 1
        held = await self._load(storage, session_id, count, version)
        return Tail(held.version, held.records[max(0, len(held.records) - count) :])

    async def page(self, storage: Storage, query: HistoryQuery, level: Level) -> HistoryPage | None:
        """The answer to a query that falls inside the tail; None if it does not."""
        if level == "fresh" or not self.max_bytes:
            return None
        session_id = query.session_id
        version = None
        if level == "validated":
            version = await self._required(storage, session_id)
        else:
            await checkpoint_if_cancelled()
        held = self._covering(query, version)
        if held is None:
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
            try:
                self._entries.move_to_end(session_id)
            except (KeyError, TypeError):  # not held, or not even a text
                return None
            entry = self._entries[session_id]
            if self._clock() >= entry.expires or entry.ahead is not None:
                return None
            records = entry.newest(session_id, count)
            if records is not None:
                self._hits += 1
            return records

    async def _required(self, storage: Storage, session_id: str) -> Version:
        """The version that a tail must have to be current."""
        version = await storage.version(session_id)
        if version is None:
            self.drop(session_id)
            raise SessionNotFoundError(session_id)
        return version

    def _covering(self, query: HistoryQuery, version: Version | None) -> Tail | None:
        """The tail that is held, if it is current and has what the query asks for."""
        session_id = query.session_id
        with self._lock:
            entry = self._current(session_id, version)
            if entry is not None and _covers(entry, query):
                self._hits += 1
                return Tail(entry.version, entry.records(session_id))
            self._misses += 1
            return None

    def _current(self, session_id: str, version: Version | None) -> Entry | None:
        entry = self._entries.get(session_id)
        if entry is None:
            return None
        self._entries.move_to_end(session_id)
        if version is not None:
            current = entry.version >= version
        else:
            current = self._clock() < entry.expires and entry.ahead is None
        self._stale += not current
        return entry if current else None

    # -- loads

    async def _load(
        self, storage: Storage, session_id: str, count: int, version: Version | None
    ) -> Tail:
        depth = max(count, self.depth)
        while True:
            tail = await self._flights.run(
                session_id, lambda flight: self._fetch(storage, session_id, depth, flight)
            )
            # One that was under way before this call may be too short, or may have missed
            # another process's write.
            enough = len(tail.records) >= min(count, tail.version.seq)
            if enough and (version is None or tail.version >= version):
                return tail

    async def _fetch(
        self, storage: Storage, session_id: str, count: int, flight: Flight[Tail]
    ) -> Tail:
        second = self.second if self.second is not None and self.second.ready else None
        found = None
        if second is not None:
            found = await self._from_second(second, storage, session_id, count)
        tail = found or await self._read_store(storage, session_id, count)
        with self._lock:
            kept = not flight.detached and self._keep(session_id, tail)
        if kept and second is not None and found is None:
            second.keep(session_id, tail)
        return tail

    async def _from_second(
        self, second: SecondTier, storage: Storage, session_id: str, count: int
    ) -> Tail | None:
        """The tail as the second tier has it, if that is what the store would give."""
        newest = await storage.tail(session_id, 1)
        if newest is None:
            return None
        if newest.version.seq <= 1:
            return newest  # there is no more to it
        tail = await second.get(session_id, newest.version)
        if tail is None or len(tail.records) < min(count, tail.version.seq):
            return None
        # Two stores, or one and its restored backup, may give the same version to different
        # records; but not with the same newest one.
        return tail if tail.records[-1] == newest.records[-1] else None

    async def _read_store(self, storage: Storage, session_id: str, count: int) -> Tail:
        with self._lock:
            self._loaded += 1
        tail = await storage.tail(session_id, count)
        if tail is None:
            self.drop(session_id)
            raise SessionNotFoundError(session_id)
        return tail

    def _keep(self, session_id: str, tail: Tail) -> bool:
        held = self._entries.get(session_id)
        if held is not None and held.version > tail.version:
            return False
        expires = self._clock() + self.ttl * (1 - _JITTER * random.random())
        if held is not None and held.version == tail.version:
            held.expires = expires  # it has just been found to be current
            if len(held) >= len(tail.records):
                return False
        depth = max(self.depth, len(tail.records))
        self._entries.put(session_id, Entry(tail, depth, expires))
        return True

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
            self._entries.remove(session_id)
            taken = entry.extend(rows, version)
            if taken is None:
                return  # another write came between
            self._entries.put(session_id, entry)
            version = entry.version
        if taken and self.second is not None:
            self.second.extend(session_id, version, taken)

    def drop(self, session_id: str) -> None:
        """The session changed, or may have, in another way than by an append."""
        with self._lock:
            self._flights.detach([session_id])
            self._entries.remove(session_id)

    def bury(self, session_id: str, version: Version | None) -> None:
        """The session was rewritten and stands at ``version`` now; None if it is gone."""
        self.drop(session_id)
        if self.second is not None:
            self.second.bury(session_id, version)

    async def settle(self) -> bool:
        """Wait until the second tier knows of all writes so far; False if it cannot be told."""
        return self.second is None or await self.second.settle()

    def clear(self) -> None:
        """Forget everything that is held in this process."""
        with self._lock:
            self._flights.detach(lambda _session_id: True)
            for session_id in list(self._entries):
                self._entries.remove(session_id)

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
                self._entries.bytes,
                None if self.second is None else self.second.statistics(),
            )


def _covers(entry: Entry, query: HistoryQuery) -> bool:
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


_shared: weakref.WeakKeyDictionary[Storage, tuple[str, TailCache]] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


def tails_of(storage: Storage) -> TailCache:
    """The cache that all managers of a store share unless they are given one."""
    return share(storage, "memory://", TailCache)[1]


def share(storage: Storage, url: str, make: Callable[[], TailCache]) -> tuple[str, TailCache]:
    """The shared cache of a store and its URL, which may be another one if it is there already."""
    with _shared_lock:
        found = _shared.get(storage)
        if found is None:
            found = (url, make())
            found[1].bind(storage)
            _shared[storage] = found
        return found
