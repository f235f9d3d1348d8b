"""Loads under way: one for each key and event loop, however many tasks ask."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from types import TracebackType
from typing import Any

import anyio
import anyio.lowlevel

from asynchistory.errors import NoEventLoopError


class Flight:
    """One load, and the tasks of one event loop that wait for it.

    Those tasks alone touch it, save for ``detached``, which is under the lock of the cache.

    Attributes:
        detached: the key was written meanwhile: the outcome goes to the tasks and is not kept.
        led: one of the tasks runs the load.
        landed: there is an outcome.
        changed: set when the load landed or its leader gave up.
    """

    def __init__(self) -> None:
        self.detached = self.led = self.landed = False
        self.changed = anyio.Event()
        self._tasks = 0
        self._value: Any = None
        self._error: Exception | None = None
        self._traceback: TracebackType | None = None

    def join(self) -> None:
        """Count a task in."""
        self._tasks += 1

    def leave(self) -> bool:
        """Count a task out. Whether it was the last."""
        self._tasks -= 1
        if self._tasks:
            return False
        # The traceback's frames hold the flight: a cycle that only the garbage collector ends.
        self._error = self._traceback = None
        return True

    def land(self, value: Any = None, error: Exception | None = None) -> None:
        """Give every task the outcome."""
        self._value, self._error = value, error
        self._traceback = error.__traceback__ if error else None
        self.landed = True
        self.changed.set()

    def give_up(self) -> None:
        """Leave the load to another task."""
        self.led = False
        # All are woken: a single heir might be cancelled before it runs.
        self.changed.set()
        self.changed = anyio.Event()

    def outcome(self) -> Any:
        """The value that was loaded.

        Raises:
            Exception: what the load raised.
        """
        if self._error is not None:
            # Or the traceback, which the tasks share, grows with each of them.
            raise self._error.with_traceback(self._traceback)
        return self._value


class Flights:
    """The loads under way. Every method is called under the lock of the cache."""

    def __init__(self) -> None:
        # By event loop object: an id() is given again, and a weak key leaks.
        self._by_key: dict[Hashable, dict[object, Flight]] = {}

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def join(self, loop: object, key: Hashable) -> Flight:
        """Count a task into the load of a key, which begins if there is none."""
        flight = self._by_key.setdefault(key, {}).setdefault(loop, Flight())
        flight.join()
        return flight

    def end(self, loop: object, key: Hashable, flight: Flight) -> None:
        """Forget a load."""
        flights = self._by_key.get(key, {})
        if flights.get(loop) is flight:  # and not one that began after this was detached
            del flights[loop]
            if not flights:
                del self._by_key[key]

    def detach(self, keys: Iterable[Hashable]) -> None:
        """Forget the loads of keys that were written: later callers begin new ones."""
        for key in list(keys):
            for flight in self._by_key.pop(key, {}).values():
                flight.detached = True


def running_loop() -> object:
    """The running asyncio loop or trio run, as an object.

    Raises:
        NoEventLoopError: there is none.
    """
    try:
        return anyio.lowlevel.current_token().native_token
    except RuntimeError:
        raise NoEventLoopError("get_or_set() needs a running event loop; peek() does not") from None
