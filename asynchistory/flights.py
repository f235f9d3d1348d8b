"""Single flight: one load, however many tasks of an event loop ask for it at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from asynchistory.runs import Waiter, current_run, new_waiter, wake

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Flight(Generic[T]):
    """A load under way. Touched only in the thread of its event loop."""

    __slots__ = ("done", "error", "result", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None

    async def lead(self, load: Callable[[], Awaitable[T]]) -> T:
        try:
            result = self.result = await load()
        except Exception as error:
            self.error = error
            self._land()
            raise
        except BaseException:
            # Cancelled: whoever waits longest goes on in this task's place.
            if self.waiters:
                wake((self.waiters.popleft(),))
            raise
        self._land()
        return result

    def _land(self) -> None:
        self.done = True
        wake(self.waiters)
        self.waiters.clear()

    async def follow(self) -> bool:
        """Wait for the outcome; False when this task is to lead instead."""
        waiter = new_waiter()
        self.waiters.append(waiter)
        await waiter.wait(lambda: self._leave(waiter))
        return self.done

    def _leave(self, waiter: Waiter) -> bool:
        # One that was chosen to lead is no longer listed: it must take over, and if it
        # cannot, hand over in turn.
        if waiter not in self.waiters:
            return False
        self.waiters.remove(waiter)
        return True


class SingleFlight(Generic[K, T]):
    """Runs one load per key and event loop.

    If the task that runs a load is cancelled, the next one that waits takes
    over. An error reaches everybody who waited for that load and is not kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, dict[object, _Flight[T]]] = {}

    async def run(self, key: K, load: Callable[[], Awaitable[T]]) -> T:
        """The outcome of the load of ``key``, which is ``load()`` unless one is under way."""
        run = current_run()
        with self._lock:
            flights = self._flights.setdefault(key, {})
            flight = flights.get(run)
            leads = flight is None
            if flight is None:
                flight = flights[run] = _Flight()
        if not leads and await flight.follow():
            if flight.error is not None:
                raise flight.error
            return flight.result  # type: ignore[return-value]
        try:
            return await flight.lead(load)
        finally:
            if flight.done or not flight.waiters:
                self._remove(key, run, flight)

    def forget(self, key: K) -> None:
        """Detach the loads of ``key``: who waits gets their result, who comes later starts anew."""
        with self._lock:
            self._flights.pop(key, None)

    def _remove(self, key: K, run: object, flight: _Flight[T]) -> None:
        with self._lock:
            flights = self._flights.get(key, {})
            if flights.get(run) is flight:
                del flights[run]
                if not flights:
                    del self._flights[key]
