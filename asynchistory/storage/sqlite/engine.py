"""The threads of one database file: a writer that commits in groups, and readers.

Only the writer writes. It takes the database's write lock, then everything
that is queued, commits it as one transaction and wakes each event loop once.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import apsw

from asynchistory.errors import (
    AsyncHistoryError,
    LifecycleError,
    NotOpenError,
    OutcomeUnknownError,
)
from asynchistory.forks import Inside, own_lock
from asynchistory.queries import StoreStatistics
from asynchistory.runs import Waiter, wake
from asynchistory.storage.counters import Counters
from asynchistory.storage.sqlite.indexing import Indexing, discarded
from asynchistory.storage.sqlite.jobs import MAX_QUEUED, Job, Jobs
from asynchistory.storage.sqlite.monitor import Presence
from asynchistory.storage.sqlite.readers import Readers
from asynchistory.storage.sqlite.schema import busy, open_writer, translate
from asynchistory.storage.sqlite.sql import scalar
from asynchistory.storage.sqlite.writes import Place, WriteGroup

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Seconds that the exit of the interpreter waits for writes under way.
EXIT_TIMEOUT = 5.0
#: Writes that one transaction takes, so that it does not keep other processes waiting.
MAX_GROUP = 512
#: Seconds in which an event loop takes an outcome and makes the next write, about.
LOOP_WORK = 15e-6
#: A transaction of this many writes is one of many, and the pages of the log (4 KiB each) after
#: which it is copied back: more for those, because many of them change the same pages; fewer
#: otherwise, because a commit is quicker where the log has been written before.
MANY = 8
LOG, LONG_LOG = 1000, 4000
#: Sessions whose place the writer remembers.
_MOST_PLACES = 50_000


class Engine:
    """The open database file. Made once per opening; not used again after it closed."""

    def __init__(self, path: Path, *, durability: str, lock_timeout: float) -> None:
        if path in _INHERITED:
            raise _inherited(path)
        self.path: Path = path
        self.durability: str = durability
        self.lock_timeout: float = lock_timeout
        self.counters: Counters = Counters()
        self._jobs = Jobs()
        self._settled: list[Job] = []
        self._index = Indexing()
        self._places: dict[str, Place] = {}
        self._data_version = -1
        self._present: Presence
        self._many = False
        self._inside = Inside()
        self._mutex = own_lock(self, "_mutex")
        self._closed = False
        self._closers: list[Waiter] = []
        self._pid = os.getpid()
        self._readers = Readers(path, durability, lock_timeout)
        self._thread = threading.Thread(target=self._run, name="asynchistory-writer", daemon=True)
        _LIVE.add(self)
        self._thread.start()

    # -- what callers use, in any thread

    async def write(self, work: Callable[[WriteGroup, *Ts], T], *args: *Ts) -> T:
        """Have ``work`` done inside the next transaction; returns when that is durable."""
        job = Job(work, args)
        while not self._jobs.put(job):
            await self._jobs.room()
        await job.wait(self._jobs.withdraw, job)
        result: T = job.outcome()
        return result

    async def chore(self, work: Callable[[apsw.Connection], T]) -> T:
        """Have ``work`` done by the writer between two transactions."""
        job = Job(work)
        self._jobs.put(job, chore=True)
        await job.wait(self._jobs.withdraw, job)
        result: T = job.outcome()
        return result

    def read(
        self, work: Callable[[apsw.Connection], T], withdraw: Callable[[], bool] = lambda: True
    ) -> Coroutine[Any, Any, T]:
        """See :meth:`Readers.read`."""
        self._jobs.check()
        return self._readers.read(work, withdraw)

    def check(self) -> None:
        """Raise why the file cannot be used any more, if that is so."""
        self._jobs.check()

    def glance(self, sql: str, bindings: tuple[object, ...]) -> list[Any] | None:
        """See :meth:`Readers.glance`."""
        self._jobs.check()
        return self._readers.glance(sql, bindings)

    def glimpse(self, sql: str, bindings: tuple[object, ...]) -> list[Any] | None:
        """See :meth:`Readers.glimpse`."""
        self._jobs.check()
        return self._readers.glimpse(sql, bindings)

    async def ready(self) -> None:
        """Return when the file is open; raise why it could not be opened."""
        # No transaction: another process's lock does not keep anyone from opening, and reading.
        await self.chore(lambda _db: None)

    async def aclose(self) -> None:
        """Finish what is queued, then close the file. Returns when the threads have let go."""
        waiter = Waiter()
        with self._mutex:
            if self._closed:
                return
            self._closers.append(waiter)
        self.stop()
        await waiter.wait(lambda: False)

    def stop(self) -> None:
        """Ask the writer to finish what is queued and close the file."""
        self._jobs.close(NotOpenError(f"{self.path} is closed; open the history again"))

    def join(self, timeout: float) -> None:
        """Wait for the writer thread to end."""
        self._thread.join(timeout)

    def index(self) -> None:
        """Have the search index made, if there is none, and kept up to date from here on."""
        self._index.wanted = self._index.behind = True
        self._jobs.ring()

    def statistics(self) -> StoreStatistics:
        """How busy the file is, and what its commits take."""
        return self.counters.statistics(len(self._jobs.writes), len(self._jobs.crowd))

    def _share(self) -> int:
        """How many of the queued writes the next transaction takes."""
        callers = len(self._jobs.writes) + len(self._settled)
        if self.counters.recent_commit < callers * LOOP_WORK:
            # Half of them, so that the loop works for the others while the disk takes these.
            # A slow disk is better used by one commit for all.
            callers = (callers + 1) // 2
        return min(callers, MAX_GROUP)

    # -- the writer thread

    def _run(self) -> None:
        db: apsw.Connection | None = None
        try:
            with self._inside:
                db = open_writer(self.path, durability=self.durability, timeout=self.lock_timeout)
                self._present = Presence(db, self.path)
                self._readers.open()
        except BaseException as error:
            known = translate(error, self.path) if isinstance(error, Exception) else None
            self._jobs.refusal = known or NotOpenError(f"{self.path} could not be opened")
        else:
            with self._inside:
                self._index.opened(db)
            while self._next(db):
                with self._inside:
                    if self._jobs.chores:
                        self._do_chore(db)
                    if self._jobs.writes:
                        self._serve(db)
        finally:
            self._shut(db)

    def _next(self, db: apsw.Connection) -> bool:
        """Wait for work, with what else is to be done; False at the end."""
        if self._jobs.writes:
            return True
        self._deliver()
        while self._jobs.idle and self._work_ahead(db):
            pass
        return self._jobs.wait()

    def _work_ahead(self, db: apsw.Connection) -> bool:
        with self._inside:
            return self._index.work(db)

    def _serve(self, db: apsw.Connection) -> None:
        try:
            self._begin(db)
        except Exception as error:
            known = error if isinstance(error, AsyncHistoryError) else translate(error, self.path)
            self._settle(self._jobs.claim(self._jobs.writes, MAX_QUEUED), known)
            return
        # Only now, so that until here a cancellation could take them back.
        jobs = self._jobs.claim(self._jobs.writes, self._share())
        failure = self._transact(db, jobs)
        unknown = isinstance(failure, OutcomeUnknownError)
        if failure is not None and len(jobs) > 1 and not unknown:
            for job in jobs:
                self._alone(db, job)
            failure = None
        self._settle(jobs, failure)

    def _do_chore(self, db: apsw.Connection) -> None:
        self._deliver()
        for job in self._jobs.claim(self._jobs.chores, 1):
            try:
                job.result = job.work(db)
            except Exception as error:
                job.error = translate(error, self.path)
            self._settle([job], None)

    def _begin(self, db: apsw.Connection) -> None:
        """Take the database's write lock."""
        self._present.check()
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

    def _alone(self, db: apsw.Connection, job: Job) -> None:
        try:
            self._begin(db)
            job.error = self._transact(db, [job]) or job.error
        except Exception as error:
            job.error = translate(error, self.path)

    def _transact(self, db: apsw.Connection, jobs: list[Job]) -> BaseException | None:
        """Do the jobs and commit. A returned error means that nothing of them is stored.

        Unless it says that this is unknown.
        """
        changes, committing = db.total_changes(), False
        try:
            group = WriteGroup(db, self._known_places(db))
            for job in jobs:
                job.error = None
                try:
                    job.result = job.work(group, *job.args)
                except AsyncHistoryError as refusal:  # raised before anything was written
                    job.error = refusal
            group.flush()
            if self._many != (len(jobs) >= MANY):
                self._many = not self._many
                db.wal_autocheckpoint(LONG_LOG if self._many else LOG)
            # Now, so that the loop makes their next writes while the disk takes these.
            self._deliver()
            committing = db.total_changes() != changes
            start = time.perf_counter()
            db.execute("COMMIT")
            if committing:
                self.counters.committed(len(jobs), time.perf_counter() - start)
                self._index.behind = True
        except Exception as error:
            self._places.clear()
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            if discarded(db, error):
                return self._again(db, jobs)
            # On a full disk the commit did not get as far as its last page.
            full = isinstance(error, apsw.FullError)
            if committing and not full and not self._undo(db):
                return OutcomeUnknownError(None)
            return (
                translate(error, self.path) if isinstance(error, (apsw.Error, OSError)) else error
            )
        return None

    def _again(self, db: apsw.Connection, jobs: list[Job]) -> BaseException | None:
        try:
            self._begin(db)
        except Exception as error:
            return error if isinstance(error, AsyncHistoryError) else translate(error, self.path)
        return self._transact(db, jobs)

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

    def _settle(self, jobs: list[Job], error: BaseException | None) -> None:
        """The outcome of these is known; their callers are told by the next delivery."""
        if error is not None:
            for job in jobs:
                job.error = error
        self._settled += jobs

    def _deliver(self) -> None:
        """Wake the callers whose outcome is known."""
        settled, self._settled = self._settled, []
        if settled:
            wake(settled)

    def _shut(self, db: apsw.Connection | None) -> None:
        self.stop()
        for queue in (self._jobs.writes, self._jobs.chores):
            self._settle(self._jobs.claim(queue, MAX_QUEUED), self._jobs.refusal)
        self._deliver()
        self._readers.close()
        if db is not None:
            with self._inside, suppress(apsw.Error):
                db.close(True)
        _LIVE.discard(self)
        with self._mutex:
            self._closed = True
        wake([*self._closers, *self._jobs.crowd])


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
        engine._jobs.refusal = _inherited(engine.path)


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
