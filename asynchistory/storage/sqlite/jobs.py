"""What waits for the writer of a file: writes, chores, and callers for whom there is no room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from asynchistory.errors import AsyncHistoryError
from asynchistory.forks import own_lock
from asynchistory.runs import Waiter, wake

#: Writes that may be queued; further callers wait for room.
MAX_QUEUED = 4096


class _State(Enum):
    QUEUED = auto()
    CLAIMED = auto()
    WITHDRAWN = auto()


# A name of a module is found in a quarter of the time of an enumeration's.
_QUEUED, _CLAIMED, _WITHDRAWN = _State


class Job(Waiter):
    """Work for the writer, and the task that waits for it."""

    __slots__ = ("args", "error", "result", "state", "work")

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...] = ()) -> None:
        Waiter.__init__(self)
        self.work: Callable[..., Any] = work
        self.args: tuple[Any, ...] = args
        self.state: _State = _QUEUED
        self.result: Any = None
        self.error: BaseException | None = None

    def outcome(self) -> Any:
        """What the work returned, once it is done."""
        if self.error is not None:
            raise self.error
        return self.result


class Jobs:
    """The queue between any number of event loops and one writer.

    Attributes:
        writes: jobs for transactions.
        chores: jobs between two transactions.
        crowd: who waits for room among the writes.
        refusal: why nothing can be queued any more, None while all is well.
    """

    def __init__(self) -> None:
        self.writes: deque[Job] = deque()
        self.chores: deque[Job] = deque()
        self.crowd: list[Waiter] = []
        self.refusal: AsyncHistoryError | None = None
        self._mutex = own_lock(self, "_mutex")
        self._closing = False
        #: The writer sleeps at this lock while it is idle; who ends that releases it.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._idle = False

    def __bool__(self) -> bool:
        return bool(self.writes or self.chores)

    @property
    def idle(self) -> bool:
        """Whether there is time for what nobody waits for."""
        return not (self or self._closing)

    # -- for callers, in any thread

    def check(self) -> None:
        """Raise the refusal, if there is one."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    def put(self, job: Job, *, chore: bool = False) -> bool:
        """Queue a job; False if there is no room."""
        queue = self.chores if chore else self.writes
        with self._mutex:
            if self.refusal is not None:
                self.check()
            if len(queue) >= MAX_QUEUED:
                return False
            queue.append(job)
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()
        return True

    async def room(self) -> None:
        """Wait until there is room for writes again."""
        waiter = Waiter()
        with self._mutex:
            if len(self.writes) < MAX_QUEUED:
                return
            self.crowd.append(waiter)
        await waiter.wait(lambda: True)

    def withdraw(self, job: Job) -> bool:
        """Call the job off; False if the writer has claimed it."""
        with self._mutex:
            if job.state is _QUEUED:
                job.state = _WITHDRAWN
            return job.state is _WITHDRAWN

    def ring(self) -> None:
        """Wake the writer, which may find something to do."""
        with self._mutex:
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()

    def close(self, refusal: AsyncHistoryError) -> None:
        """Take no more jobs. Those that are queued are still to be done."""
        with self._mutex:
            self._closing = True
            self.refusal = self.refusal or refusal
        self.ring()

    # -- for the writer

    def claim(self, queue: deque[Job], most: int) -> list[Job]:
        """Take jobs that nobody can call off from here on."""
        jobs: list[Job] = []
        crowd: list[Waiter] = []
        with self._mutex:
            while queue and len(jobs) < most:
                job = queue.popleft()
                if job.state is _QUEUED:
                    job.state = _CLAIMED
                    jobs.append(job)
            if self.crowd and len(self.writes) <= MAX_QUEUED // 2:
                crowd, self.crowd = self.crowd, crowd
        wake(crowd)
        return jobs

    def wait(self) -> bool:
        """Wait for work; False when there is none left and none will come."""
        with self._mutex:
            if self:
                return True
            if self._closing:
                return False
            self._idle = True
        self._bell.acquire()
        return True
