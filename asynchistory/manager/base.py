"""What every part of the manager stands on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from asynchistory.cache.tail import Level, TailCache, tails_of
from asynchistory.checks import check_level
from asynchistory.errors import EpochChangedError
from asynchistory.storage.announcements import announcements_of
from asynchistory.storage.port import Storage

T = TypeVar("T")

#: How often a read of several steps is begun again because the session was rewritten meanwhile.
_TRIES = 5


class Base:
    """A store, its cache, and how current reads are."""

    def __init__(
        self, storage: Storage, cache: TailCache | None = None, *, level: Level = "validated"
    ) -> None:
        self.storage: Storage = storage
        self.cache: TailCache = tails_of(storage) if cache is None else cache
        self.cache.bind(storage)
        self._announcements = announcements_of(storage)
        check_level(level)
        self.level: Level = level

    def _level(self, level: Level | None) -> Level:
        if level is None:
            return self.level
        check_level(level)
        return level

    @property
    def _current(self) -> Level:
        """The level of reads that must not miss what others have written."""
        return "fresh" if self.level == "fresh" else "validated"

    def _rewritten(self, session_id: str) -> None:
        """The session changed, or may have, in another way than by an append that returned."""
        self.cache.drop(session_id)
        self._announcements.announce(session_id)


async def steadily(read: Callable[[], Awaitable[T]]) -> T:
    """The outcome of a read of several steps, begun again if the session is rewritten meanwhile.

    Raises:
        EpochChangedError: it is rewritten all the time.
    """
    for _ in range(_TRIES - 1):
        with suppress(EpochChangedError):
            return await read()
    return await read()
