"""Single flight: one load, however many tasks of an event loop ask for it at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from types import TracebackType
from typing import Generic, TypeVar

import anyio

from asynchistory.forks import own_lock
from asynchistory.runs import current_run

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flight(Generic[T]):
    """One load, and the tasks of one event loop that wait for it.

    Attributes:
        detached: what is loaded was written meanwhile: the outcome goes to the
            tasks that wait and must not be kept.
        landed: there is an outcome.
    """

    __slots__ = (
        "_changed", "_error", "_led", "_result", "_tasks", "_traceback", "detached", "landed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.detached: bool = False
        self.landed: bool = False
        self._led = False
        self._changed: anyio.Event | None = None  # made by the first that waits for it
        self._tasks = 0
        self._result: list[T] = []
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

    async def outcome(self, load: Callable[[Flight[T]], Awaitable[T]]) -> T:
        """Wait for the outcome, or bring it about."""
        while not self.landed:
            if self._led:
                self._changed = self._changed or anyio.Event()
                await self._changed.wait()
                continue
            self._led = True
            try:
                self._result.append(await load(self))
            except Exception as error:
                self._error, self._traceback = error, error.__traceback__
            except BaseException:
                # Cancelled. All are woken: a single heir might be cancelled before it runs.
                self._led = False
                self._wake()
                raise
            self.landed = True
            self._wake()
        if self._error is not None:
            # Or the traceback, which the tasks share, grows with each of them.
            raise self._error.with_traceback(self._traceback)
        return self._result[0]

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()


class SingleFlight(Generic[K, T]):
    """Runs one load per key and event loop.

    If the task that runs a load is cancelled, another one that waits takes
    over, and nobody else notices. An error reaches all who waited for that
    load and is not kept.
    """

    def __init__(self) -> None:
        self._lock = own_lock(self, "_lock")
        # By the run itself: an id() is given again, and a weak key leaks.
        self._flights: dict[K, dict[object, Flight[T]]] = {}

    def __len__(self) -> int:
        return sum(map(len, list(self._flights.values())))

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def run(self, key: K, load: Callable[[Flight[T]], Awaitable[T]]) -> T:
        """The outcome of ``load``, or of the load of ``key`` that is under way.

        Raises:
            NoEventLoopError: neither asyncio nor trio is running here.
            Exception: what the load raised, for all who waited for it.
        """
        run = current_run()
        with self._lock:
            flights = self._flights.get(key)
            if flights is None:
                flights = self._flights[key] = {}
            flight = flights.get(run)
            if flight is None:
                flight = flights[run] = Flight()
            flight.join()
        try:
            return await flight.outcome(load)
        finally:
            if flight.leave() or flight.landed:
                self._end(key, run, flight)

    def detach(self, keys: Iterable[K] | Callable[[K], object]) -> None:
        """Forget the loads of these keys, or of those that a function picks.

        Who waits gets their outcome; who comes later starts anew.
        """
        with self._lock:
            chosen = [key for key in self._flights if keys(key)] if callable(keys) else keys
            for key in chosen:
                for flight in self._flights.pop(key, {}).values():
                    flight.detached = True

    def _end(self, key: K, run: object, flight: Flight[T]) -> None:
        with self._lock:
            flights = self._flights.get(key, {})
            if flights.get(run) is flight:  # and not one that began after this was detached
                del flights[run]
                if not flights:
                    del self._flights[key]
