"""The threads of one database file: a writer that commits in groups, and readers.

Only the writer writes. It takes the database's write lock, then everything
that is queued, commits it as one transaction and wakes each event loop once.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import apsw

from asynchistory.errors import (
    AsyncHistoryError,
    LifecycleError,
    NotOpenError,
    OutcomeUnknownError,
)
from asynchistory.queries import StoreStatistics
from asynchistory.runs import Waiter, new_waiter, wake
from asynchistory.storage.sqlite.monitor import Counters, check_present
from asynchistory.storage.sqlite.readers import Readers
from asynchistory.storage.sqlite.schema import busy, open_writer, translate
from asynchistory.storage.sqlite.sql import scalar
from asynchistory.storage.sqlite.writes import Place, WriteGroup

T = TypeVar("T")

#: Seconds that the exit of the interpreter waits for writes under way.
EXIT_TIMEOUT = 5.0
#: Writes that may be queued; further callers wait for room.
MAX_QUEUED = 4096
#: Writes that one transaction takes, so that it does not keep other processes waiting.
MAX_GROUP = 512
#: Seconds in which an event loop takes an outcome and makes the next write, about.
LOOP_WORK = 15e-6
#: Sessions whose place the writer remembers.
_MOST_PLACES = 50_000


class _State(Enum):
    QUEUED = auto()
    CLAIMED = auto()
    WITHDRAWN = auto()


class _Job:
    """Work for the writer, and the task that waits for it."""

    __slots__ = ("error", "result", "state", "waiter", "work")

    def __init__(self, work: Callable[..., Any], waiter: Waiter) -> None:
        self.work = work
        self.waiter = waiter
        self.state = _State.QUEUED
        self.result: Any = None
        self.error: BaseException | None = None


class Engine:
    """The open database file. Made once per opening; not used again after it closed."""

    def __init__(self, path: Path, *, durability: str, lock_timeout: float) -> None:
        if path in _INHERITED:
            raise _inherited(path)
        self.path = path
        self.durability = durability
        self.lock_timeout = lock_timeout
        self.counters = Counters()
        self._mutex = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._chores: deque[_Job] = deque()
        self._crowd: list[Waiter] = []
        self._settled: list[_Job] = []
        self._places: dict[str, Place] = {}
        self._data_version = -1
        #: The writer sleeps at this lock while it is idle; who ends that releases it.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._idle = False
        self._closing = self._closed = False
        self._closers: list[Waiter] = []
        #: Why nothing can be done any more, None while all is well.
        self._refusal: AsyncHistoryError | None = None
        self._pid = os.getpid()
        self._readers = Readers(path, durability, lock_timeout)
        self._thread = threading.Thread(target=self._run, name="asynchistory-writer", daemon=True)
        _LIVE.add(self)
        self._thread.start()

    # -- what callers use, in any thread

    async def write(self, work: Callable[[WriteGroup], T]) -> T:
        """Have ``work`` done inside the next transaction; returns when that is durable."""
        job = _Job(work, new_waiter())
        while not self._submit(job):
            await self._room()
        result: T = await self._outcome(job)
        return result

    async def chore(self, work: Callable[[apsw.Connection], T]) -> T:
        """Have ``work`` done by the writer between two transactions."""
        job = _Job(work, new_waiter())
        self._submit(job, chore=True)
        result: T = await self._outcome(job)
        return result

    async def _outcome(self, job: _Job) -> Any:
        await job.waiter.wait(lambda: self._withdraw(job))
        if job.error is not None:
            raise job.error
        return job.result

    async def read(
        self, work: Callable[[apsw.Connection], T], withdraw: Callable[[], bool] = lambda: True
    ) -> T:
        """See :meth:`Readers.read`."""
        self._check_usable()
        return await self._readers.read(work, withdraw)

    def glance(self, sql: str, bindings: tuple[object, ...]) -> list[Any] | None:
        """See :meth:`Readers.glance`."""
        self._check_usable()
        return self._readers.glance(sql, bindings)

    async def ready(self) -> None:
        """Return when the file is open; raise why it could not be opened."""
        await self.write(lambda _group: None)

    async def aclose(self) -> None:
        """Finish what is queued, then close the file. Returns when the threads have let go."""
        waiter = new_waiter()
        with self._mutex:
            if self._closed:
                return
            self._closers.append(waiter)
        self.stop()
        await waiter.wait(lambda: False)

    def stop(self) -> None:
        """Ask the writer to finish what is queued and close the file."""
        with self._mutex:
            self._closing = True
            self._refusal = self._refusal or self._gone()
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()

    def join(self, timeout: float) -> None:
        """Wait for the writer thread to end."""
        self._thread.join(timeout)

    def statistics(self) -> StoreStatistics:
        """How busy the file is, and what its commits take."""
        return self.counters.statistics(len(self._queue), len(self._crowd))

    # -- the queue

    def _gone(self) -> NotOpenError:
        return NotOpenError(f"{self.path} is closed; open the history again")

    def _check_usable(self) -> None:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    def _submit(self, job: _Job, chore: bool = False) -> bool:
        """Queue the job; False if there is no room."""
        queue = self._chores if chore else self._queue
        with self._mutex:
            self._check_usable()
            if len(queue) >= MAX_QUEUED:
                return False
            queue.append(job)
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()
        return True

    async def _room(self) -> None:
        """Wait until the queue has room again."""
        waiter = new_waiter()
        with self._mutex:
            if len(self._queue) < MAX_QUEUED:
                return
            self._crowd.append(waiter)
        await waiter.wait(lambda: True)

    def _withdraw(self, job: _Job) -> bool:
        with self._mutex:
            if job.state is _State.QUEUED:
                job.state = _State.WITHDRAWN
            return job.state is _State.WITHDRAWN

    def _share(self) -> int:
        """How many of the queued writes the next transaction takes."""
        callers = len(self._queue) + len(self._settled)
        if self.counters.recent_commit < callers * LOOP_WORK:
            # Half of them, so that the loop works for the others while the disk takes these.
            # A slow disk is better used by one commit for all.
            callers = (callers + 1) // 2
        return min(callers, MAX_GROUP)

    def _claim(self, queue: deque[_Job], most: int) -> list[_Job]:
        """Take jobs that nobody can call off from here on."""
        jobs: list[_Job] = []
        crowd: list[Waiter] = []
        with self._mutex:
            while queue and len(jobs) < most:
                job = queue.popleft()
                if job.state is _State.QUEUED:
                    job.state = _State.CLAIMED
                    jobs.append(job)
            if self._crowd and len(self._queue) <= MAX_QUEUED // 2:
                crowd, self._crowd = self._crowd, crowd
        wake(crowd)
        return jobs

    # -- the writer thread

    def _run(self) -> None:
        db: apsw.Connection | None = None
        try:
            db = open_writer(self.path, durability=self.durability, timeout=self.lock_timeout)
            self._readers.open()
        except BaseException as error:
            known = translate(error, self.path) if isinstance(error, Exception) else None
            self._refusal = known or NotOpenError(f"{self.path} could not be opened")
        else:
            while self._next():
                if self._queue:
                    self._serve(db)
                if self._chores:
                    self._do_chore(db)
        finally:
            self._shut(db)

    def _next(self) -> bool:
        """Wait for work; False when there is none left and the engine is to stop."""
        if self._queue:
            return True
        self._deliver()
        with self._mutex:
            if self._queue or self._chores:
                return True
            if self._closing:
                return False
            self._idle = True
        self._bell.acquire()
        return True

    def _serve(self, db: apsw.Connection) -> None:
        try:
            self._begin(db)
        except Exception as error:
            known = error if isinstance(error, AsyncHistoryError) else translate(error, self.path)
            self._settle(self._claim(self._queue, MAX_QUEUED), known)
            return
        # Only now, so that until here a cancellation could take them back.
        jobs = self._claim(self._queue, self._share())
        failure = self._transact(db, jobs)
        unknown = isinstance(failure, OutcomeUnknownError)
        if failure is not None and len(jobs) > 1 and not unknown:
            for job in jobs:
                self._alone(db, job)
            failure = None
        self._settle(jobs, failure)

    def _do_chore(self, db: apsw.Connection) -> None:
        self._deliver()
        for job in self._claim(self._chores, 1):
            try:
                job.result = job.work(db)
            except Exception as error:
                job.error = translate(error, self.path)
            self._settle([job], None)

    def _begin(self, db: apsw.Connection) -> None:
        """Take the database's write lock."""
        check_present(db, self.path)
        if self._settled:
            # Their callers wait: only if the lock can be had at once.
            try:
                db.set_busy_timeout(0)
                db.execute("BEGIN IMMEDIATE")
                return
            except apsw.BusyError:
                self._deliver()
            finally:
                db.set_busy_timeout(int(self.lock_timeout * 1000))
        try:
            db.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            raise busy(self.path, self.lock_timeout) from None

    def _alone(self, db: apsw.Connection, job: _Job) -> None:
        try:
            self._begin(db)
            job.error = self._transact(db, [job]) or job.error
        except Exception as error:
            job.error = translate(error, self.path)

    def _transact(self, db: apsw.Connection, jobs: list[_Job]) -> BaseException | None:
        """Do the jobs and commit. A returned error means that nothing of them is stored.

        Unless it says that this is unknown.
        """
        changes, committing = db.total_changes(), False
        try:
            group = WriteGroup(db, self._known_places(db))
            for job in jobs:
                job.error = None
                try:
                    job.result = job.work(group)
                except AsyncHistoryError as refusal:  # raised before anything was written
                    job.error = refusal
            group.flush()
            # Now, so that the loop makes their next writes while the disk takes these.
            self._deliver()
            committing = db.total_changes() != changes
            with self.counters.commit(len(jobs)) if committing else nullcontext():
                db.execute("COMMIT")
        except Exception as error:
            self._places.clear()
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            if committing and not self._undo(db):
                return OutcomeUnknownError(None)
            return (
                translate(error, self.path) if isinstance(error, (apsw.Error, OSError)) else error
            )
        return None

    def _undo(self, db: apsw.Connection) -> bool:
        """Make sure that a commit that failed has not happened; whether that is sure now.

        All of it may stand in the log, where a process that opens the file after this one
        has died would find it. A commit of something else takes its place there.
        """
        try:
            db.execute("BEGIN IMMEDIATE")
            # An epoch that nothing will have: a change, or there would be nothing to write.
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'epoch'")
            db.execute("COMMIT")
        except apsw.Error:
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            return False
        return True

    def _known_places(self, db: apsw.Connection) -> dict[str, Place]:
        """Where sessions stand, as far as that is known and no other process has written since."""
        version = scalar(db, "PRAGMA data_version")
        if version != self._data_version or len(self._places) > _MOST_PLACES:
            self._places.clear()
            self._data_version = version
        return self._places

    def _settle(self, jobs: list[_Job], error: BaseException | None) -> None:
        """The outcome of these is known; their callers are told by the next delivery."""
        if error is not None:
            for job in jobs:
                job.error = error
        self._settled += jobs

    def _deliver(self) -> None:
        """Wake the callers whose outcome is known."""
        settled, self._settled = self._settled, []
        if settled:
            wake(job.waiter for job in settled)

    def _shut(self, db: apsw.Connection | None) -> None:
        with self._mutex:
            self._closing = True
            self._refusal = self._refusal or self._gone()
        for queue in (self._queue, self._chores):
            self._settle(self._claim(queue, MAX_QUEUED), self._refusal)
        self._deliver()
        self._readers.close()
        if db is not None:
            with suppress(apsw.Error):
                db.close(True)
        _LIVE.discard(self)
        with self._mutex:
            self._closed = True
        wake([*self._closers, *self._crowd])


_LIVE: set[Engine] = set()
#: Files that were open when this process was forked. SQLite keeps what it knows of a file's locks
#: in the process's memory: in the child it believes that it holds locks which are its parent's, so
#: that a database opened again here could lose commits.
_INHERITED: set[Path] = set()


def _inherited(path: Path) -> LifecycleError:
    return LifecycleError(
        f"{path} was open when this process was forked, and cannot be used in the child; "
        "open it after the fork, or close it before"
    )


def _after_fork() -> None:
    for engine in _LIVE:
        _INHERITED.add(engine.path)
        engine._refusal = _inherited(engine.path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _stop_all() -> None:
    """At exit without a close: finish the writes under way, so that nothing hangs or is torn."""
    engines = [engine for engine in _LIVE if engine._pid == os.getpid()]
    for engine in engines:
        engine.stop()
    for engine in engines:
        engine.join(EXIT_TIMEOUT)


atexit.register(_stop_all)
