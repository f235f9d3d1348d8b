"""What belongs to one event-loop run: its connections, its queue of writes and their writers.

Reads run in the task that asks, by a connection of the pool; cancelled in the
middle, they leave a connection that is thrown away. Writes are queued, and done
by writers, which are tasks of the run and not of any caller: a caller that is
cancelled either takes its write out of the queue or waits for the outcome.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import psycopg

from asynchistory.errors import (
    AsyncHistoryError,
    BusyError,
    ConfigurationError,
    OutcomeUnknownError,
    StorageUnavailableError,
)
from asynchistory.runs import start_task, wake
from asynchistory.storage.postgres.appends import Group
from asynchistory.storage.postgres.jobs import Job
from asynchistory.storage.postgres.problems import RETRIED, passing, translate
from asynchistory.storage.postgres.sql import Statements
from asynchistory.storage.postgres.waiting import Connection

if TYPE_CHECKING:
    from asynchistory.storage.postgres.listening import Listener
    from asynchistory.storage.postgres.server import Server

T = TypeVar("T")

#: Writers of one run: while the server has the group of one, the other makes the next.
WRITERS = 2
#: Appends in the queue that are enough for two groups.
_MANY = 16
#: How often what others' transactions have ended is done again.
_TRIES = 8
#: Seconds for which to connect is tried again while the server starts, and between two tries.
PATIENCE, _FIRST, _LONGEST = 15.0, 0.02, 1.0
#: Seconds that an answer may take longer than the server's own deadline, before it is given up.
_GRACE = 5.0


class _Opening:
    """A connection that is being opened, in a task of the run."""

    def __init__(self, lane: Lane, patience: float) -> None:
        self.done: anyio.Event = anyio.Event()
        self.error: AsyncHistoryError | None = None
        self._lane = lane
        self._patience = patience
        start_task(self._open)

    async def _open(self) -> None:
        try:
            self._lane.give(await self._lane.connect(self._patience))
        except Exception as error:  # a task of the run must not raise
            self.error = translate(error, self._lane.server.address.url)
        except BaseException:
            self.error = StorageUnavailableError("the event loop ended while this was opened")
            raise
        finally:
            self.done.set()


class Lane:
    """The connections of one run. Used in its thread alone."""

    def __init__(self, server: Server) -> None:
        self.server: Server = server
        self.queue: deque[Job] = deque()
        self._room = anyio.Semaphore(server.address.pool, fast_acquire=True)
        self._idle: list[Connection] = []
        self._openings: list[_Opening] = []  # those that nobody waits for
        self._writers = 0
        self._serving = 0  # writers that have something
        self._alone = False
        self._closed = False
        self.listener: Listener | None = None

    # -- connections

    async def connect(self, patience: float = PATIENCE) -> Connection:
        """A new connection. While the server cannot be reached, it is tried again for a time.

        Raises:
            StorageUnavailableError: the server could not be reached, or refused.
        """
        deadline, delay = time.monotonic() + patience, _FIRST
        while True:
            try:
                with anyio.fail_after(float(self.server.address.params["connect_timeout"])):
                    return await self._dial()
            except (psycopg.Error, OSError) as error:  # OSError: TimeoutError too
                again = isinstance(error, OSError) or passing(error)
                if not again or time.monotonic() + delay > deadline:
                    raise self._unavailable(error) from None
            await anyio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _LONGEST)

    async def _dial(self) -> Connection:
        address = self.server.address
        connection = await Connection.dial(address.params)
        try:
            if connection.pgconn.parameter_status(b"server_encoding") != b"UTF8":
                raise StorageUnavailableError(
                    f"{address.url}: the database is not in UTF8; create one that is"
                )
            if not address.pooler:
                await self._refuse_pooler(connection)
            await connection.execute(address.settings)
            if connection.pgconn.server_version >= 140000:
                await self._end_with_us(connection)
        except BaseException:
            connection.discard()
            raise
        return connection

    async def _refuse_pooler(self, connection: Connection) -> None:
        """Before anything is set, which a pooler of transactions would leave to others."""
        cursor = await connection.execute("SELECT pg_backend_pid()")
        if await cursor.fetchone() != (connection.pgconn.backend_pid,):
            raise ConfigurationError(
                f"{self.server.address.url}: a pooler stands before the server; if it pools "
                "sessions, and not transactions, add pooler=session to the URL"
            )

    async def _end_with_us(self, connection: Connection) -> None:
        """Have the server end the statements of those who went away, if its platform can."""
        try:
            await connection.execute("SET client_connection_check_interval = 1000")
        except psycopg.Error:
            if not connection.usable:
                raise

    def _unavailable(self, error: BaseException) -> AsyncHistoryError:
        return translate(error, self.server.address.url)

    async def _obtain(self, patience: float) -> Connection:
        """A new connection, or what is idle by then. Who gives up does not stop its opening."""
        while True:
            opening = self._openings.pop() if self._openings else _Opening(self, patience)
            try:
                await opening.done.wait()
            except BaseException:
                if not opening.done.is_set():
                    self._openings.append(opening)
                raise
            if opening.error is not None:
                raise opening.error
            if (connection := self.take()) is not None:
                return connection

    def take(self) -> Connection | None:
        """An idle connection whose server is still there."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.discard()
        return None

    def give(self, connection: Connection) -> None:
        """Take a connection back, unless it stands in the middle of something."""
        most = self.server.address.pool + WRITERS
        if connection.idle and not self._closed and len(self._idle) < most:
            self._idle.append(connection)
        else:
            connection.discard()

    async def read(
        self, work: Callable[[Statements], Awaitable[T]], patience: float = PATIENCE
    ) -> T:
        """Do this with a connection of the pool."""
        async with self._room:
            connection = self.take() or await self._obtain(patience)
            try:
                return await work(Statements(connection))
            except (psycopg.Error, OSError) as error:
                raise self._unavailable(error) from None
            finally:
                self.give(connection)

    def close(self) -> None:
        """Close what is idle now, and what is in use when it is given back."""
        self._closed = True
        if self.listener is not None:
            self.listener.close()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.discard()

    # -- writes

    async def write(self, job: Job) -> Any:
        """Queue a write; returns its outcome."""
        self.queue.append(job)
        self._hire()
        await job.wait(job.withdraw)
        return job.outcome()

    def _hire(self) -> None:
        """Have one writer more, if there may be."""
        if self._writers < WRITERS and not self._alone:
            self._writers += 1
            start_task(self._work)

    async def _work(self) -> None:
        """Be a writer, until nothing is queued that this one may take."""
        try:
            with anyio.CancelScope(shield=True):
                while jobs := self._claim(group := Group()):
                    await self._serve(jobs, group)
        finally:
            self._writers -= 1

    async def _serve(self, jobs: list[Job], group: Group) -> None:
        self._alone = not group.batches
        self._serving += 1
        try:
            if self._alone:
                await self._change(jobs[0])
            else:
                await self._append(jobs, group)
        except BaseException as error:
            # A bug, or the end of the run: whoever waits has to be told something.
            for job in jobs:
                job.error = job.error or self._told(error, job)
            if not isinstance(error, Exception):
                raise
        finally:
            self._serving -= 1
            self._alone = False
            wake(jobs)

    def _told(self, error: BaseException, job: Job) -> BaseException:
        if isinstance(error, OutcomeUnknownError):
            return OutcomeUnknownError(job.key)
        if isinstance(error, AsyncHistoryError):
            return error
        if isinstance(error, (psycopg.Error, OSError)):
            return self._unavailable(error)
        return error if isinstance(error, Exception) else OutcomeUnknownError(job.key)

    def _claim(self, group: Group) -> list[Job]:
        """The next append with those that can go along with it, or the next other change.

        The batches of appends are in the group then.
        """
        queue = self.queue
        while queue and not queue[0].claim():
            queue.popleft()
        if not queue or self._alone:
            return []
        if queue[0].batch is None:
            # It comes after what was queued before it.
            return [queue.popleft()] if self._writers == 1 else []
        jobs: list[Job] = []
        # Half of many, if no other is at work: while the server has these, the loop makes the next.
        most = len(queue) if self._serving or len(queue) < _MANY else (len(queue) + 1) // 2
        while queue and len(jobs) < most and (batch := queue[0].batch) is not None:
            if not queue[0].claim():
                queue.popleft()
            elif group.take(batch):
                jobs.append(queue.popleft())
            else:
                break
        if queue and queue[0].batch is not None:
            self._hire()
        return jobs

    async def _append(self, jobs: list[Job], group: Group) -> None:
        statement = group.statement()
        try:
            found = await self._attempt(lambda db: db.repeated(*statement), jobs)
        except psycopg.Error:
            if len(jobs) == 1:
                raise
            await self._one_by_one(jobs)
            return
        for job, answer in zip(jobs, group.answers(found), strict=True):
            if isinstance(answer, AsyncHistoryError):
                job.error = answer
            else:
                job.result = answer

    async def _one_by_one(self, jobs: list[Job]) -> None:
        stuck: dict[str, BaseException] = {}
        for job in jobs:
            assert job.batch is not None
            name = job.batch.session_id
            try:
                if name in stuck:
                    job.error = stuck[name]
                else:
                    await self._append([job], Group(job.batch))
            except Exception as error:
                job.error = self._told(error, job)
                if isinstance(job.error, BusyError):
                    stuck[name] = job.error  # its others would wait as long, each after the other

    async def _change(self, job: Job) -> None:
        work = job.work
        assert work is not None
        if job.plain:
            job.result = await self._attempt(work, [job], deadline=None)
            return

        async def transaction(db: Statements) -> Any:
            await db.connection.execute("BEGIN")
            try:
                result = await work(db)
            except Exception:
                if not _broken(db.connection):
                    await db.connection.execute("ROLLBACK")
                raise
            db.connection.committing = True
            await db.connection.execute("COMMIT")
            return result

        job.result = await self._attempt(transaction, [job], known=True)

    async def _attempt(
        self,
        work: Callable[[Statements], Awaitable[Any]],
        jobs: list[Job],
        *,
        deadline: float | None = 0.0,
        known: bool = False,
    ) -> Any:
        """Do this with a connection; done again where others, or a lost connection, undid it.

        Args:
            work: what to do, all or nothing.
            jobs: for whom.
            deadline: None if it may take for ever.
            known: it happens with its COMMIT alone, so that before that nothing did.

        Raises:
            OutcomeUnknownError: the connection was lost, and it may have happened.
        """
        limit = None
        if deadline is not None:
            address = self.server.address
            limit = address.statement_timeout + address.lock_timeout + _GRACE
        for tries in range(_TRIES):
            connection = self.take() or await self.connect()
            connection.committing = not known
            try:
                with anyio.move_on_after(limit, shield=True) as scope:
                    connection.stubborn = scope
                    started = time.perf_counter()
                    result = await work(Statements(connection))
                    self.server.counters.committed(len(jobs), time.perf_counter() - started)
                    return result
            except RETRIED:
                if tries + 1 == _TRIES:
                    raise
            except psycopg.Error:
                if not _broken(connection):
                    raise  # the server took it back
            finally:
                connection.stubborn = None
                self.give(connection)
            if (_broken(connection) or scope.cancelled_caught) and connection.committing:
                raise OutcomeUnknownError(None)  # the caller's key is named by _told
            if scope.cancelled_caught:
                break
        raise StorageUnavailableError(
            f"{self.server.address.url}: the server did not answer; nothing was written: try again"
        )


def _broken(connection: Connection) -> bool:
    return connection.pgconn.status != psycopg.pq.ConnStatus.OK
