"""One opening of a store: the lanes of all event-loop runs that use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from asynchistory.errors import NotOpenError
from asynchistory.forks import in_child, own_lock
from asynchistory.queries import StoreStatistics
from asynchistory.runs import Waiter, at_end, call_in, current_run, until_end, wake
from asynchistory.storage.counters import Counters
from asynchistory.storage.postgres.address import Address
from asynchistory.storage.postgres.lane import Lane


class Server:
    """What is open of a store."""

    def __init__(self, address: Address) -> None:
        self.address: Address = address
        self.counters: Counters = Counters()
        self._lock = own_lock(self, "_lock")
        # By the run itself. Its entry goes when the run ends, so nothing leaks.
        self._lanes: dict[object, tuple[Lane, AsyncGenerator[None, None]]] = {}
        self._parents: list[object] = []
        self._busy = 0
        self._closing = False
        self._closers: list[Waiter] = []
        in_child(self, "_forget")

    def _forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        self._parents.append(self._lanes)  # kept, and so not closed in the parent's name
        self._lanes = {}
        self._busy = 0
        self._closers = []

    async def __aenter__(self) -> Lane:
        """Use the lane of the run that this is in; any number of tasks may at once."""
        run = current_run()
        found = self._lanes.get(run)
        lane = await self._open(run) if found is None else found[0]
        with self._lock:
            self._still_open()
            self._busy += 1
        return lane

    async def __aexit__(self, *exc: object) -> None:
        with self._lock:
            self._busy -= 1
            closers = [] if self._busy else self._closers
        if closers:
            wake(closers)

    def _still_open(self) -> None:
        if self._closing:
            raise NotOpenError(f"{self.address.url} is closed; open the history again")

    async def _open(self, run: object) -> Lane:
        lane = Lane(self)

        async def close() -> None:
            with self._lock:
                own = self._lanes.get(run, (None,))[0] is lane
                if own:
                    del self._lanes[run]
            if own:
                lane.close()

        guard = at_end(close)
        with self._lock:
            self._still_open()
            self._lanes[run] = lane, guard
        await anext(guard)  # from now on the loop closes it at its end
        return lane

    async def aclose(self) -> None:
        """Wait for what is under way, then close all connections."""
        waiter = Waiter()
        with self._lock:
            self._closing = True
            if self._busy:
                self._closers.append(waiter)
        if waiter in self._closers:
            await waiter.wait(lambda: False)
        with self._lock:
            lanes, self._lanes = self._lanes, {}
        here = current_run()
        for run, (lane, guard) in lanes.items():
            if run is here:
                lane.close()
                await guard.aclose()
            else:
                call_in(run, lane.close)
                # In its own run as well: trio warns of a generator that is collected elsewhere.
                call_in(run, partial(until_end, guard.aclose))

    def statistics(self) -> StoreStatistics:
        """How busy the store is."""
        with self._lock:
            queued = sum(len(lane.queue) for lane, _ in self._lanes.values())
        return self.counters.statistics(queued)
