"""What every part of the manager stands on."""

from __future__ import annotations

from asynchistory.cache.tail import Level, TailCache, tails_of
from asynchistory.checks import check_level
from asynchistory.storage.port import Storage


class Base:
    """A store, its cache, and how current reads are."""

    def __init__(
        self, storage: Storage, cache: TailCache | None = None, *, level: Level = "validated"
    ) -> None:
        self.storage: Storage = storage
        self.cache: TailCache = tails_of(storage) if cache is None else cache
        self.cache.bind(storage)
        check_level(level)
        self.level: Level = level

    def _level(self, level: Level | None) -> Level:
        if level is None:
            return self.level
        check_level(level)
        return level
