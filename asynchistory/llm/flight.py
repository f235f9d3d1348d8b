"""One creation of an LLM instance, and all who wait for it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from asynchistory.errors import ClientCreationError
from asynchistory.runs import Waiter, new_lock

if TYPE_CHECKING:
    from asynchistory.runs import Lock


class Flight:
    """One creation, and all who asked while it was under way, in any loop and thread.

    Its factory changes it, under the factory's lock.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.callers = 0
        self.locks: dict[object, Lock] = {}
        self.waiters: deque[Waiter] = deque()
        self.led = False
        #: The id of the task that creates.
        self.leader: int | None = None
        self.done = False
        self.instance: Any = None
        self.error: ClientCreationError | None = None

    def lock(self, run: object) -> Lock:
        """The lock that lets one caller of an event loop through at a time."""
        lock = self.locks.get(run)
        if lock is None:
            lock = self.locks[run] = new_lock()
        return lock

    def outcome(self) -> Any:
        """The instance, or the error that all callers share."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.instance
