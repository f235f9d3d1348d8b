"""The instances that a factory holds: found without a lock, bounded by number and by idle time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

#: Ways to write one configuration that are remembered: a temperature of 0 and of 0.0 are one.
_SPELLINGS = 4


class Entry:
    """One instance, and when it was last asked for."""

    __slots__ = ("arguments", "instance", "key", "used")

    def __init__(self, key: Hashable, instance: Any, now: float) -> None:
        self.key: Hashable = key
        self.instance: Any = instance
        self.used: float = now
        self.arguments: list[tuple[Any, ...]] = []


class Spellings(dict[tuple[Any, ...], Entry]):
    """Entries by the arguments that they were asked for with, an API key among them."""

    def __repr__(self) -> str:
        return f"<{len(self)} spellings>"


class Instances:
    """Instances by their key, and by the arguments of :meth:`LLMFactory.get`.

    Look-ups need no lock; whatever changes what is held is called under the factory's.

    Args:
        max_entries: of more instances than this, the least recently used go; None for no limit.
        idle_ttl: seconds after its last use that an instance is kept; None for ever.
        clock: seconds, of whatever origin.
    """

    def __init__(
        self, max_entries: int | None, idle_ttl: float | None, clock: Callable[[], float]
    ) -> None:
        self.by_key: dict[Hashable, Entry] = {}
        self.by_arguments: Spellings = Spellings()
        self.bounded: bool = max_entries is not None or idle_ttl is not None
        self.evictions: int = 0
        self._max_entries = max_entries
        self._idle_ttl = idle_ttl
        self._clock = clock

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, key: Hashable) -> Entry | None:
        """The entry of a key, if it is not idle for too long. Needs no lock."""
        entry = self.by_key.get(key)
        return entry if entry is not None and self.touch(entry) else None

    def spelled(self, *arguments: Any) -> Entry | None:
        """The entry that these arguments found before, as :meth:`find`. Needs no lock."""
        try:
            entry = self.by_arguments.get(arguments)
        except TypeError:  # not even hashable
            return None
        return entry if entry is not None and self.touch(entry) else None

    def touch(self, entry: Entry) -> bool:
        """Note a use; False if the last was too long ago. Needs no lock."""
        if not self.bounded:
            return True
        now = self._clock()
        if self._idle(entry, now):
            return False
        entry.used = now
        return True

    def add(self, key: Hashable, instance: Any) -> None:
        """Hold an instance, and let go of others if they are too many."""
        self.sweep()
        self._drop(key)
        while self._max_entries is not None and len(self.by_key) >= self._max_entries:
            self._drop(min(self.by_key.values(), key=lambda entry: entry.used).key)
            self.evictions += 1
        self.by_key[key] = Entry(key, instance, self._clock())

    def remember(self, key: Hashable, arguments: tuple[Any, ...]) -> None:
        """Find the entry of ``key``, if it is held, by these arguments from now on."""
        entry = self.by_key.get(key)
        if entry is None or len(entry.arguments) == _SPELLINGS:
            return
        with suppress(TypeError):  # a function object that gives the API key may have no hash
            if arguments not in self.by_arguments:
                self.by_arguments[arguments] = entry
                entry.arguments.append(arguments)

    def sweep(self) -> None:
        """Let go of what has been idle for too long."""
        if self._idle_ttl is not None:
            now = self._clock()
            for entry in [entry for entry in self.by_key.values() if self._idle(entry, now)]:
                self._drop(entry.key)
                self.evictions += 1

    def clear(self) -> list[Any]:
        """Let go of all; gives what was held."""
        held = [entry.instance for entry in self.by_key.values()]
        self.by_key.clear()
        self.by_arguments.clear()
        self.evictions = 0
        return held

    def _idle(self, entry: Entry, now: float) -> bool:
        return self._idle_ttl is not None and now - entry.used >= self._idle_ttl

    def _drop(self, key: Hashable) -> None:
        entry = self.by_key.pop(key, None)
        if entry is not None:
            for arguments in entry.arguments:
                self.by_arguments.pop(arguments, None)
