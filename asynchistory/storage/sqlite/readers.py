"""The connections that read: in threads of their own, and one for what is quick in the caller's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import apsw

from asynchistory.errors import NotOpenError
from asynchistory.forks import Inside, own_lock
from asynchistory.runs import Waiter, wake
from asynchistory.storage.sqlite.monitor import Presence, identity, moved
from asynchistory.storage.sqlite.schema import connect, translate

T = TypeVar("T")

#: Threads that read; with the writer these are all the threads of a file.
READERS = 4
#: Seconds that a short query may keep the caller's event loop waiting.
QUICK = 0.0005
#: Queries that are left to the threads after several in a row that took longer, at most.
RETICENCE = 128


class _Job(Waiter):
    """Work for a reader, and the task that waits for it."""

    __slots__ = ("error", "gone", "result", "work")

    def __init__(self, work: Callable[[apsw.Connection], Any]) -> None:
        Waiter.__init__(self)
        self.work: Callable[[apsw.Connection], Any] = work
        self.gone: bool = False  # nobody waits any more
        self.result: Any = None
        self.error: BaseException | None = None


class _Reader(threading.Thread):
    """One thread and its connection."""

    def __init__(self, readers: Readers, job: _Job) -> None:
        super().__init__(name="asynchistory-reader", daemon=True)
        self.job: _Job | None = job
        self.bell: threading.Lock = threading.Lock()  # held while the thread has nothing to do
        self.bell.acquire()
        self._readers = readers
        self._inside = Inside()
        self._db: apsw.Connection | None = None
        self._present: Presence

    def run(self) -> None:
        while (job := self._readers.next_job(self)) is not None:
            try:
                if not job.gone:
                    with self._inside:
                        job.result = self._read(job.work)
            except BaseException as error:
                job.error = self._readers.known(error)
            wake((job,))
        if self._db is not None:
            with self._inside, suppress(apsw.Error):
                self._db.close(True)

    def _read(self, work: Callable[[apsw.Connection], Any]) -> Any:
        if self._db is None:
            self._db = self._readers.connect()
            self._present = Presence(self._db, self._readers.path)
        self._present.check()
        db = self._db
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            # Not COMMIT, which fails once a damaged page was met, also for what only read.
            if db.in_transaction:
                db.execute("ROLLBACK")


class Readers:
    """Reads of one open file.

    The thread that was last busy reads first, with what it still has of the file
    in its memory; a further one starts only when all are busy.
    """

    def __init__(self, path: Path, durability: str, timeout: float) -> None:
        self.path: Path = path
        self._durability = durability
        self._timeout = timeout
        self._lock = own_lock(self, "_lock")
        self._threads: list[_Reader] = []
        self._idle: list[_Reader] = []
        self._queue: deque[_Job] = deque()
        self._closed = False
        self._glance_inside = Inside()
        self._known: tuple[int, int] | None = None
        self._glance: apsw.Connection | None = None
        self._glance_present: Presence
        self._reticence = 0  # queries that are to be left to the threads
        self._slow = 0  # how many that would be once more

    def open(self) -> None:
        """Open what is used in the callers' threads; the file exists now."""
        self._known = identity(self.path)
        self._glance = self.connect(timeout=0)
        self._glance_present = Presence(self._glance, self.path)

    async def read(
        self, work: Callable[[apsw.Connection], T], withdraw: Callable[[], bool] = lambda: True
    ) -> T:
        """Have ``work`` done by a reader thread, inside one read transaction.

        A read changes nothing: whoever is cancelled may leave at once. Work that does
        more is called off by ``withdraw``, which says whether it still could.
        """
        job = _Job(work)

        def leave() -> bool:
            job.gone = withdraw()
            return job.gone

        self._submit(job)
        await job.wait(leave)
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise NotOpenError(f"{self.path} is closed; open the history again")
            if self._idle:
                reader = self._idle.pop()
                reader.job = job
            elif len(self._threads) < READERS:
                reader = _Reader(self, job)
                self._threads.append(reader)
                reader.start()
                return
            else:
                self._queue.append(job)
                return
        reader.bell.release()

    def glance(
        self, sql: str, bindings: tuple[object, ...], deadline: float = inf
    ) -> list[Any] | None:
        """A look-up by key in the caller's own thread: microseconds, where a hop costs a hundred.

        None means that the database could not answer without waiting, or not before the deadline.
        """
        lock = self._glance_inside.lock
        if not lock.acquire(blocking=False):
            return None
        try:
            if self._glance is None:
                return None
            self._glance_present.check()
            found = []
            for row in self._glance.execute(sql, bindings):
                found.append(row)
                if time.perf_counter() > deadline:
                    self._reticence = self._slow = min(max(1, 2 * self._slow), RETICENCE)
                    return None
            if deadline < inf:
                self._slow = 0
            return found
        except (apsw.BusyError, apsw.LockedError):
            return None
        except apsw.Error as error:
            raise translate(error, self.path) from None
        finally:
            lock.release()

    def glimpse(self, sql: str, bindings: tuple[object, ...]) -> list[Any] | None:
        """A short query in the caller's own thread, given up once it takes :data:`QUICK`.

        After that the next one is not tried, and after several in a row twice as many each time:
        what they read is likely not to be in memory either. None means that it was not answered;
        a reader thread can.
        """
        if self._reticence:
            self._reticence -= 1
            return None
        return self.glance(sql, bindings, time.perf_counter() + QUICK)

    def close(self) -> None:
        """Wait for reads under way and close the connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.bell.release()
        for reader in self._threads:
            reader.join()
        with self._glance_inside:
            glance, self._glance = self._glance, None
            if glance is not None:
                with suppress(apsw.Error):
                    glance.close(True)

    # -- for the reader threads

    def next_job(self, reader: _Reader) -> _Job | None:
        """What the reader has to do next, once there is something; None at the end."""
        job, reader.job = reader.job, None
        if job is not None:
            return job
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            if self._closed:
                return None
            self._idle.append(reader)
        reader.bell.acquire()
        job, reader.job = reader.job, None
        return job

    def connect(self, timeout: float | None = None) -> apsw.Connection:
        """A further connection to the file that was opened, and to no other of its name."""
        if identity(self.path) != self._known:
            raise moved(self.path)
        wait = self._timeout if timeout is None else timeout
        return connect(self.path, durability=self._durability, timeout=wait)

    def known(self, error: BaseException) -> BaseException:
        """The error in our words, if it is the database's."""
        return translate(error, self.path) if isinstance(error, apsw.Error) else error
