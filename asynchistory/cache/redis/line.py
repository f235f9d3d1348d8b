"""The connections of one event-loop run, and what waits there to be told to Redis."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio.abc import ByteStream
from coredis.connection import BaseConnection, TCPLocation
from coredis.exceptions import NoScriptError, ResponseError, WrongTypeError

from asynchistory.cache.redis.breaker import Breaker
from asynchistory.cache.redis.script import SCRIPT, SHA
from asynchistory.runs import until_end

#: Connections of one run that are in use at the same time; others wait for one.
MOST = 16
#: Changes that wait to be told; further ones are not.
MOST_CHANGES = 1024
#: Changes that are sent together, and the bytes after which no further one joins them.
BATCH, BATCH_BYTES = 64, 256 * 1024
#: Seconds between two looks whether the server is back: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.05, 2.0

#: Makes the arguments of the script, None if there is nothing to tell.
Change: TypeAlias = Callable[[], Sequence[bytes] | None]


class Server(NamedTuple):
    """Where Redis is, and who we are there."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    deadline: float = 0.25

    def __repr__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"

    async def connect(self) -> ByteStream:
        """A stream to the server.

        Raises:
            OSError: it cannot be reached, or not within the deadline.
        """
        with anyio.fail_after(self.deadline):
            if self.tls is None:
                return await anyio.connect_tcp(self.host, self.port)
            return await anyio.connect_tcp(
                self.host,
                self.port,
                tls=True,
                ssl_context=self.tls,
                tls_standard_compatible=False,
            )


class _Connection(BaseConnection):
    """coredis's connection over a stream that is open already.

    Opened by itself, it would leave its buffers unclosed where the server cannot be reached.
    """

    def __init__(self, server: Server, stream: ByteStream) -> None:
        super().__init__(
            TCPLocation(server.host, server.port),
            db=server.db,
            username=server.username,
            password=server.password,
            stream_timeout=server.deadline,
        )
        self._opened = stream

    async def _connect(self) -> ByteStream:
        return self._opened

    def describe(self) -> str:
        return f"<connection to {self.location!r}>"


class _Made:
    """A connection that is being made, and the one who waits for it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.connection: _Connection | None = None
        self.event = anyio.Event()
        self.error: Exception | None = None
        self.abandoned = False

    def started(self, value: object = None) -> None:
        """It is there, or will never be. See :class:`anyio.abc.TaskStatus`."""
        if not self.event.is_set():
            self.event.set()
            if self.abandoned:
                self.put_back()

    def put_back(self) -> None:
        """Nobody takes it: it is for the next caller."""
        if self.connection is not None and self.error is None:
            self.line.rest(self.connection)
        else:
            self.line.slots.release()


class Mark:
    """Stands between changes: whether all before it were told, once that is known."""

    def __init__(self) -> None:
        self.event: anyio.Event = anyio.Event()
        self.told: bool = False


class Line:
    """One run's connections. Each carries one call at a time, so that an answer is always its own.

    A connection whose call was cancelled, failed or took too long is not used again: what comes
    in over it later would be taken for the answer to another call.

    Used in the run's own thread alone.
    """

    def __init__(self, server: Server, breaker: Breaker, run: object) -> None:
        self.server = server
        self.breaker = breaker
        self.run = run
        self.changes: deque[Change | Mark] = deque()
        self.lost: bool = False  #: a change was not told since the last mark
        self.slots: anyio.Semaphore = anyio.Semaphore(MOST)
        self._more = anyio.Event()
        #: Each with the number of failures that there were when it was last used.
        self._idle: list[tuple[int, _Connection]] = []

    # -- calls

    async def call(self, *words: bytes) -> Any:
        """What Redis answers, within the deadline; None if it does not.

        Raises:
            Exception: the cancellation of the caller, and nothing else.
        """
        answer: Any = None

        async def ask(connection: _Connection) -> None:
            nonlocal answer
            answer = await _send(connection, words)

        await self._well(ask)
        return answer

    async def _well(self, work: Callable[[_Connection], Awaitable[None]]) -> bool:
        """Whether this was done, within the deadline. If not, the server is left alone."""
        error: Exception | None = None
        with anyio.move_on_after(self.server.deadline):
            try:
                async with self._leased() as connection:
                    await work(connection)
                return True
            except Exception as caught:
                error = caught
        if error is not None and _is_other(error):
            return False
        self.fail(error)
        return False

    def fail(self, error: Exception | None = None) -> None:
        """Leave the server alone until it is back. None: it took too long."""
        self.breaker.fail(error)
        self.look()

    def look(self) -> None:
        """See to it that somebody finds out when the server is back."""
        if self.breaker.probe(self.run):
            until_end(self._probe)

    @asynccontextmanager
    async def _leased(self) -> AsyncGenerator[_Connection, None]:
        await self.slots.acquire()
        connection = self._rested() or await self._made()
        try:
            yield connection
        except BaseException:
            connection.invalidate()
            self.slots.release()
            raise
        self.rest(connection)

    def _rested(self) -> _Connection | None:
        while self._idle:
            age, connection = self._idle.pop()
            if connection.usable and age == self.breaker.failures:
                return connection
            connection.invalidate()
        return None

    def rest(self, connection: _Connection) -> None:
        """Take back a connection, and the slot of who had it."""
        if len(self._idle) < MOST:
            self._idle.append((self.breaker.failures, connection))
        else:
            connection.invalidate()
        self.slots.release()

    async def _made(self) -> _Connection:
        """A new connection, for one who has a slot."""
        made = _Made(self)
        until_end(partial(self._connect, made))
        try:
            await made.event.wait()
        except BaseException:
            if made.event.is_set():
                made.put_back()
            else:
                made.abandoned = True  # what was begun is not in vain: the next caller has it
            raise
        if made.connection is None or made.error is not None:
            self.slots.release()
            raise made.error or ConnectionError("the event loop ends")
        return made.connection

    async def _connect(self, made: _Made) -> None:
        """Be a connection, until it breaks or the run ends. Not cancelled with who asked for it."""
        try:
            stream = await self.server.connect()
            made.connection = _Connection(self.server, stream)
            await made.connection.run(task_status=made)
        except Exception as error:
            made.error = error
        finally:
            made.started()

    async def _probe(self) -> None:
        pause = FIRST_LOOK
        try:
            while self.breaker.open:
                await anyio.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
                if await self._answers():
                    self.breaker.back()
        finally:
            self.breaker.leave(self.run)

    async def _answers(self) -> bool:
        with anyio.move_on_after(self.server.deadline):
            try:
                async with self._leased() as connection:
                    return bool(await _send(connection, (b"PING",)))
            except Exception:
                return False
        return False

    # -- changes

    def add(self, change: Change) -> bool:
        """Have this told, in its turn; False if too much waits already."""
        if len(self.changes) >= MOST_CHANGES:
            self.lost = True
            return False
        self.changes.append(change)
        self._more.set()
        return True

    async def mark(self) -> bool:
        """Wait until all before this is told; False if some of it was not."""
        mark = Mark()
        self.changes.append(mark)
        self._more.set()
        with anyio.move_on_after(2 * self.server.deadline):
            await mark.event.wait()
        return mark.told

    async def tell(self) -> None:
        """Tell Redis of changes as they come, until the run ends."""
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            while self.changes:
                mark, changes = self._some()
                if changes and (
                    self.breaker.open or not await self._well(partial(_apply, changes))
                ):
                    self.lost = True
                if mark is not None:
                    mark.told, self.lost = not self.lost, False
                    mark.event.set()

    def _some(self) -> tuple[Mark | None, list[Sequence[bytes]]]:
        """The next changes, up to a mark if one comes."""
        changes: list[Sequence[bytes]] = []
        size = 0
        while self.changes and len(changes) < BATCH and size < BATCH_BYTES:
            change = self.changes.popleft()
            if isinstance(change, Mark):
                return change, changes
            words = change()
            if words is not None:
                changes.append(words)
                size += sum(map(len, words))
        return None, changes


def _send(connection: _Connection, words: Sequence[bytes]) -> Awaitable[Any]:
    command, *arguments = words
    return connection.create_request(
        command, *arguments, decode=False, disconnect_on_cancellation=True
    )


async def _apply(changes: list[Sequence[bytes]], connection: _Connection) -> None:
    under_way = [_send(connection, (b"EVALSHA", SHA, b"1", *change)) for change in changes]
    for change, answer in zip(changes, under_way, strict=True):
        try:
            await answer
        except NoScriptError:  # a server that is new, or was flushed
            await _send(connection, (b"EVAL", SCRIPT, b"1", *change))
        except ResponseError as error:
            if not _is_other(error):
                raise


def _is_other(error: Exception) -> bool:
    """Whether somebody else's value stands under one of our keys: the server is well."""
    return isinstance(error, WrongTypeError) or (
        isinstance(error, ResponseError) and "WRONGTYPE" in str(error)
    )
