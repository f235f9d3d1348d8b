"""The threads of one database file: a writer that commits in groups, and readers.

Only the writer writes. It takes the database's write lock, then everything
that is queued, commits it as one transaction and wakes each event loop once.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import apsw

from asynchistory.errors import AsyncHistoryError, LifecycleError, NotOpenError
from asynchistory.runs import Waiter, new_waiter, wake
from asynchistory.storage.sqlite.schema import busy, connect, open_writer, translate
from asynchistory.storage.sqlite.writes import WriteGroup

T = TypeVar("T")

#: Threads that read; with the writer these are all the threads of a file.
READERS = 4
#: Seconds that the exit of the interpreter waits for writes under way.
EXIT_TIMEOUT = 5.0


class _State(Enum):
    QUEUED = auto()
    CLAIMED = auto()
    WITHDRAWN = auto()


class _Job:
    """Work for the writer, and the task that waits for it."""

    __slots__ = ("error", "result", "state", "waiter", "work")

    def __init__(self, work: Callable[[WriteGroup], Any], waiter: Waiter) -> None:
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
        self._mutex = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._bell = threading.Semaphore(0)
        self._idle = False
        self._closing = self._closed = False
        self._closers: list[Waiter] = []
        self._failure: AsyncHistoryError | None = None
        self._pid = os.getpid()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="asynchistory-reader")
        self._spare: list[apsw.Connection] = []
        self._glance_lock = threading.Lock()
        self._glance: apsw.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="asynchistory-writer", daemon=True)
        _LIVE.add(self)
        self._thread.start()

    # -- what callers use, in any thread

    async def write(self, work: Callable[[WriteGroup], T]) -> T:
        """Have ``work`` done inside the next transaction; returns when that is durable."""
        job = _Job(work, new_waiter())
        self._submit(job)
        await job.waiter.wait(lambda: self._withdraw(job))
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Have ``work`` done by a reader thread, inside one read transaction."""
        self._check_usable()
        waiter = new_waiter()
        outcome: list[Any] = [None, None]
        try:
            self._readers.submit(self._read, work, outcome, waiter)
        except RuntimeError:  # closed since, or the interpreter is exiting
            raise NotOpenError(f"{self.path} is closed; open the history again") from None
        # A read changes nothing: whoever is cancelled may leave at once.
        await waiter.wait(lambda: True)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def glance(self, sql: str, bindings: tuple[object, ...]) -> list[Any] | None:
        """A look-up by key in the caller's own thread: microseconds, where a hop costs a hundred.

        None means that the database could not answer without waiting.
        """
        self._check_usable()
        with self._glance_lock:
            if self._glance is None:
                return None
            try:
                return self._glance.execute(sql, bindings).fetchall()
            except (apsw.BusyError, apsw.LockedError):
                return None
            except apsw.Error as error:
                raise translate(error, self.path) from None

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
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()

    def join(self, timeout: float) -> None:
        """Wait for the writer thread to end."""
        self._thread.join(timeout)

    # -- the queue

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._pid != os.getpid():
            raise _inherited(self.path)
        if self._closing:
            raise NotOpenError(f"{self.path} is closed; open the history again")

    def _submit(self, job: _Job) -> None:
        with self._mutex:
            self._check_usable()
            self._queue.append(job)
            ring, self._idle = self._idle, False
        if ring:
            self._bell.release()

    def _withdraw(self, job: _Job) -> bool:
        with self._mutex:
            if job.state is _State.QUEUED:
                job.state = _State.WITHDRAWN
            return job.state is _State.WITHDRAWN

    def _claim(self) -> list[_Job]:
        with self._mutex:
            jobs = [job for job in self._queue if job.state is _State.QUEUED]
            self._queue.clear()
            for job in jobs:
                job.state = _State.CLAIMED
        return jobs

    # -- the writer thread

    def _run(self) -> None:
        db: apsw.Connection | None = None
        try:
            db = open_writer(self.path, durability=self.durability, timeout=self.lock_timeout)
            self._glance = connect(self.path, durability=self.durability, timeout=0)
        except BaseException as error:
            self._fail(translate(error, self.path) if isinstance(error, Exception) else None)
        else:
            while self._next():
                self._serve(db)
        finally:
            self._shut(db)

    def _next(self) -> bool:
        """Wait for work; False when there is none left and the engine is to stop."""
        with self._mutex:
            if self._queue:
                return True
            if self._closing:
                return False
            self._idle = True
        self._bell.acquire()
        return True

    def _serve(self, db: apsw.Connection) -> None:
        try:
            db.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self._finish(self._claim(), busy(self.path, self.lock_timeout))
            return
        except apsw.Error as error:
            self._finish(self._claim(), translate(error, self.path))
            return
        jobs = self._claim()  # only now, so that until here a cancellation could take them back
        failure = self._transact(db, jobs)
        if failure is not None and len(jobs) > 1:
            for job in jobs:
                self._alone(db, job)
            failure = None
        self._finish(jobs, failure)

    def _alone(self, db: apsw.Connection, job: _Job) -> None:
        try:
            db.execute("BEGIN IMMEDIATE")
            job.error = self._transact(db, [job]) or job.error
        except apsw.Error as error:
            job.error = translate(error, self.path)

    def _transact(self, db: apsw.Connection, jobs: list[_Job]) -> BaseException | None:
        """Do the jobs and commit. A returned error means that nothing of them is stored."""
        try:
            group = WriteGroup(db, {})
            for job in jobs:
                job.error = None
                try:
                    job.result = job.work(group)
                except AsyncHistoryError as refusal:  # raised before anything was written
                    job.error = refusal
            group.flush()
            db.execute("COMMIT")
        except Exception as error:
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            return (
                translate(error, self.path) if isinstance(error, (apsw.Error, OSError)) else error
            )
        return None

    def _finish(self, jobs: Iterable[_Job], error: BaseException | None) -> None:
        if error is not None:
            for job in jobs:
                job.error = error
        wake(job.waiter for job in jobs)

    def _fail(self, error: AsyncHistoryError | None) -> None:
        self._failure = error or NotOpenError(f"{self.path} could not be opened")

    def _shut(self, db: apsw.Connection | None) -> None:
        with self._mutex:
            self._closing = True
        self._finish(self._claim(), self._failure or NotOpenError(f"{self.path} is closed"))
        self._readers.shutdown(wait=True)
        with self._glance_lock:
            connections = [*self._spare, self._glance, db]
            self._glance = None
        for connection in connections:
            if connection is not None:
                with suppress(apsw.Error):
                    connection.close(True)
        _LIVE.discard(self)
        with self._mutex:
            self._closed = True
        wake(self._closers)

    # -- the reader threads

    def _read(
        self, work: Callable[[apsw.Connection], Any], outcome: list[Any], waiter: Waiter
    ) -> None:
        try:
            outcome[0] = self._read_once(work)
        except BaseException as error:
            outcome[1] = translate(error, self.path) if isinstance(error, apsw.Error) else error
        wake((waiter,))

    def _read_once(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = connect(self.path, durability=self.durability, timeout=self.lock_timeout)
        try:
            connection.execute("BEGIN")
            return work(connection)
        finally:
            if connection.in_transaction:
                connection.execute("COMMIT")
            self._spare.append(connection)


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
    _INHERITED.update(engine.path for engine in _LIVE)


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
