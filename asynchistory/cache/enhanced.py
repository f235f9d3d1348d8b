"""An in-memory cache of anything, for code that was written around one.

History does not need it: :class:`~asynchistory.AsyncHistoryManager` has a cache of its own,
which follows every write.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, NamedTuple, Protocol

from cachetools import Cache, LRUCache

from asynchistory.errors import ConfigurationError, InvalidInputError
from asynchistory.flights import Flight, SingleFlight


class AsyncCache(Protocol):
    """An application's own cache; :class:`EnhancedCacheManager` is one."""

    async def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, or ``default``."""

    async def set(self, key: Any, value: Any, ttl: float | None = None) -> None:
        """Store a value, for ``ttl`` seconds."""


class EnhancedCacheStats(NamedTuple):
    """What an :class:`EnhancedCacheManager` has done so far.

    Attributes:
        hits: look-ups that found a value.
        misses: look-ups that did not, each caller of ``get_or_set`` counted.
        sets: values stored, those loaded by ``get_or_set`` included.
        evictions: values that made room for others.
        expirations: values found past their time.
        size: values held now.
    """

    hits: int
    misses: int
    sets: int
    evictions: int
    expirations: int
    size: int


class _Entry(NamedTuple):
    value: Any
    expires_at: float | None


class EnhancedCacheManager:
    """A bounded in-memory cache with expiry; the least recently used value goes first.

    One object serves any number of threads and of asyncio and trio event loops. Values are
    handed out as they are, not copied.

    Args:
        max_size: the most values that it holds.
        default_ttl: for how many seconds a value is good where ``set`` says nothing; None
            for ever.
        clock: the time in seconds.

    Raises:
        ConfigurationError: ``max_size`` is not a positive integer.
        InvalidInputError: ``default_ttl`` is not positive and finite.
    """

    def __init__(
        self,
        max_size: int = 1000,
        default_ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise ConfigurationError("max_size must be a positive integer")
        self._max_size = max_size
        self._default_ttl = _checked_ttl(default_ttl)
        self._clock = clock
        self._lock = threading.Lock()  # never held across an await
        self._entries: LRUCache[Hashable, _Entry] = LRUCache(max_size)
        self._flights: SingleFlight[Hashable, Any] = SingleFlight()
        self._hits = self._misses = self._sets = self._evictions = self._expirations = 0

    def __repr__(self) -> str:
        return f"<EnhancedCacheManager {len(self._entries)}/{self._max_size}>"

    # -- one key -------------------------------------------------------------------------------

    async def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        return self.peek(key, default)

    def peek(self, key: Hashable, default: Any = None) -> Any:
        """What :meth:`get` gives, without an event loop."""
        with self._lock:
            entry, good = self._find(key)
        return entry.value if good and entry else default

    async def set(self, key: Hashable, value: Any, ttl: float | None = None) -> None:
        """Store a value for ``ttl`` seconds; None for the default, whatever the old one had.

        A load of this key that is under way still answers its callers, but is not stored.

        Raises:
            InvalidInputError: ``ttl`` is not positive and finite.
        """
        ttl = self._ttl(ttl)
        with self._lock:
            self._flights.detach([key])
            _displaced = self._put(key, value, ttl)

    async def remove(self, key: Hashable) -> bool:
        """Forget a key. Whether it had a value that was still good."""
        with self._lock:
            self._flights.detach([key])
            entry = self._entries.pop(key, None)
            return entry is not None and not self._is_expired(entry)

    async def get_or_set(
        self,
        key: Hashable,
        factory: Callable[[], Any | Awaitable[Any]],
        ttl: float | None = None,
    ) -> Any:
        """The value of a key; where it has none, ``factory`` (sync or async) makes it.

        However many tasks of one event loop ask at once, it is made once. If the caller that
        makes it is cancelled, the next one makes it with its own factory, and nobody else
        notices. A factory must not ask for its own key.

        Raises:
            InvalidInputError: ``ttl`` is not positive and finite.
            NoEventLoopError: neither asyncio nor trio is running here.
            Exception: what the factory raised, for all who waited for it; it is not cached.
        """
        ttl = self._ttl(ttl)
        with self._lock:
            entry, good = self._find(key)
        if good and entry:
            return entry.value
        return await self._flights.run(key, lambda flight: self._load(flight, key, factory, ttl))

    # -- many keys -----------------------------------------------------------------------------

    async def remove_by_pattern(self, pattern: str) -> int:
        """Forget all keys that match a shell pattern such as ``session:*``; how many had values.

        Upper and lower case differ. Keys that are not text match nothing.
        """
        matches = re.compile(fnmatch.translate(pattern)).match
        with self._lock:
            self._flights.detach(lambda key: _is_match(matches, key))
            keys = [key for key in self._entries if _is_match(matches, key)]
            removed = [self._entries.pop(key) for key in keys]
        return len(removed)

    async def clear(self) -> int:
        """Forget everything; how many values there were. The statistics go on."""
        with self._lock:
            self._flights.detach(lambda _key: True)
            old, self._entries = self._entries, LRUCache(self._max_size)
        return len(old)

    async def cleanup_expired(self) -> int:
        """Forget what is past its time; how many values that were."""
        with self._lock:
            removed = [self._entries.pop(key) for key in self._expired_keys()]
            self._expirations += len(removed)
        return len(removed)

    def get_stats(self) -> EnhancedCacheStats:
        """What was done so far, and how many values are held."""
        with self._lock:
            return EnhancedCacheStats(
                self._hits,
                self._misses,
                self._sets,
                self._evictions,
                self._expirations,
                len(self._entries),
            )

    def get_cache_info(self) -> dict[str, float | int | None]:
        """The settings ``max_size`` and ``default_ttl``, and how much is held.

        ``size`` counts values, ``expired`` those of them past their time, ``loading`` the
        loads under way.
        """
        with self._lock:
            return {
                "max_size": self._max_size,
                "default_ttl": self._default_ttl,
                "size": len(self._entries),
                "expired": len(self._expired_keys()),
                "loading": len(self._flights),
            }

    # -- the load ------------------------------------------------------------------------------

    async def _load(
        self,
        flight: Flight[Any],
        key: Hashable,
        factory: Callable[[], Any],
        ttl: float | None,
    ) -> Any:
        with self._lock:
            # Another load may have ended, or a value been set, since this caller looked.
            held = self._entries.get(key)
            if held is not None and not self._is_expired(held):
                return held.value
        value = factory()
        if inspect.isawaitable(value):
            value = await value
        with self._lock:
            _displaced = None if flight.detached else self._put(key, value, ttl)
        return value

    # -- under the lock ------------------------------------------------------------------------
    # What leaves the cache goes to the caller, who lets go of it after the lock: a value may
    # run code of its own when it goes.

    def _find(self, key: Hashable) -> tuple[_Entry | None, bool]:
        entry = self._entries.get(key)
        good = entry is not None and not self._is_expired(entry)
        if entry is not None and not good:
            del self._entries[key]
            self._expirations += 1
        self._hits += good
        self._misses += not good
        return entry, good

    def _put(self, key: Hashable, value: Any, ttl: float | None) -> list[_Entry]:
        displaced = []
        if key in self._entries:
            displaced.append(self._entries.pop(key))
        elif len(self._entries) == self._max_size:
            displaced.append(self._entries.popitem()[1])
            self._evictions += 1
        self._entries[key] = _Entry(value, None if ttl is None else self._clock() + ttl)
        self._sets += 1
        return displaced

    def _is_expired(self, entry: _Entry) -> bool:
        return entry.expires_at is not None and self._clock() >= entry.expires_at

    def _expired_keys(self) -> list[Hashable]:
        # LRUCache's own look-up, as items() does it, would make every value a recent one.
        return [
            key for key in self._entries if self._is_expired(Cache.__getitem__(self._entries, key))
        ]

    def _ttl(self, ttl: float | None) -> float | None:
        return self._default_ttl if ttl is None else _checked_ttl(ttl)


def _checked_ttl(ttl: float | None) -> float | None:
    if ttl is None:
        return None
    number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
    if not number or not 0 < ttl <= sys.float_info.max:
        raise InvalidInputError(
            "a ttl must be a positive, finite number of seconds, or None for the default"
        )
    return ttl


def _is_match(matches: Callable[[str], object], key: Hashable) -> bool:
    return isinstance(key, str) and bool(matches(key))
