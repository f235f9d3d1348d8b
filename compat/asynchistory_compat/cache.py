"""Synchronous access to an asynchronous cache, as legacy code knows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from asynchistory_compat.bridge import bridge

T = TypeVar("T")

#: Seconds that a call may take unless the adapter is made with another limit.
DEFAULT_TIMEOUT = 5.0


class AsyncCache(Protocol):
    """What the adapter needs of a cache; :class:`asynchistory.EnhancedCacheManager` has it."""

    async def get(self, key: str, default: Any = None) -> Any: ...
    async def set(self, key: str, value: Any, ttl: float | None = None) -> None: ...
    async def remove(self, key: str) -> bool: ...
    async def remove_by_pattern(self, pattern: str) -> int: ...
    async def clear(self) -> int: ...
    async def cleanup_expired(self) -> int: ...
    async def get_or_set(self, key: str, factory: Any, ttl: float | None = None) -> Any: ...


class SyncCacheAdapter:
    """An async cache for synchronous callers: the same entries, from any thread.

    Errors are raised, never swallowed. After ``timeout`` seconds a call is
    cancelled and raises :class:`TimeoutError`.

    Args:
        async_cache: the cache.
        timeout: seconds; None for no limit.
    """

    def __init__(self, async_cache: AsyncCache, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        self.async_cache = async_cache
        self.timeout = timeout

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        return self._call(lambda: self.async_cache.get(key, default))

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or for as long as the cache does by default."""
        self._call(lambda: self.async_cache.set(key, value, ttl))

    def remove(self, key: str) -> bool:
        """Forget ``key``; False if it was not there."""
        return self._call(lambda: self.async_cache.remove(key))

    def remove_by_pattern(self, pattern: str) -> int:
        """Forget the keys that match a shell-style pattern; returns how many."""
        return self._call(lambda: self.async_cache.remove_by_pattern(pattern))

    def clear(self) -> int:
        """Forget everything; returns how many."""
        return self._call(self.async_cache.clear)

    def cleanup_expired(self) -> int:
        """Forget what has expired; returns how many."""
        return self._call(self.async_cache.cleanup_expired)

    def get_or_set(self, key: str, factory: Callable[[], Any], ttl: float | None = None) -> Any:
        """The value of ``key``; if it is missing, ``factory()`` makes it, once for all who ask."""
        return self._call(lambda: self.async_cache.get_or_set(key, factory, ttl))

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return bridge().call(work, self.timeout)
