"""Events between a test and the server, so that no test has to sleep."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from asynchistory.runs import Waiter, wake

if TYPE_CHECKING:
    from asynchistory.runs import Waiter


class Signal:
    """An event that any thread can set and any thread or task can wait for.

    Once set it stays set. Tasks may be on asyncio or on trio.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[Waiter] = []

    def set(self) -> None:
        """Wake all who wait, now and later."""
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, []
        wake(waiters)

    def is_set(self) -> bool:
        """Whether :meth:`set` has been called."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the signal is set.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether the signal is set.
        """
        return self._event.wait(timeout)

    async def wait_async(self) -> None:
        """Wait in a task until the signal is set.

        Raises:
            NoEventLoopError: neither asyncio nor trio is running in this thread.
        """
        waiter = Waiter()
        with self._lock:
            if self._event.is_set():
                return
            self._waiters.append(waiter)
        await waiter.wait(lambda: self._withdraw(waiter))

    def _withdraw(self, waiter: Waiter) -> bool:
        with self._lock:
            if waiter not in self._waiters:
                return False
            self._waiters.remove(waiter)
            return True


class Gate:
    """Holds an answer back until the test opens it.

    A reply with a gate stops in front of it; ``reached`` tells the test so.
    An open gate lets every later answer through.

    Attributes:
        reached: set when an answer first stands in front of the gate.
    """

    def __init__(self) -> None:
        self.reached: Signal = Signal()
        self._opened = Signal()

    def open(self) -> None:
        """Let through what waits, and all that comes later. From any thread."""
        self._opened.set()

    async def go_through(self) -> None:
        """Wait until the gate is open; this is what the server does."""
        self.reached.set()
        await self._opened.wait_async()
