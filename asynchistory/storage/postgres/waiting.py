"""psycopg's connection, waiting through AnyIO, so that one code path serves asyncio and trio.

psycopg does its work in generators that say which socket they wait for, and on what.
Who waits is not their business: psycopg itself waits through asyncio, and this
module does through AnyIO. What it touches for that is not psycopg's public API
(``_connect_gen``, ``wait`` being all that waits, and the parts of a cursor that
:meth:`Connection.repeat` puts together), which is why the version is pinned and
tests/unit/postgres/test_waiting.py looks whether it is still there.
"""

from __future__ import annotations

import re
import select
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Self, TypeVar

import anyio
import psycopg
import psycopg.abc
from psycopg import conninfo, errors, generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus

from asynchistory.storage.postgres.arrays import register

T = TypeVar("T")

#: Pieces of an answer that are read without a turn of the loop.
_AT_ONCE = 16
_READ, _WRITE = 1, 2  # as in psycopg.waiting, where they are enumerations


class Connection(psycopg.AsyncConnection[Any]):
    """A connection of one event-loop run, used by one task at a time.

    Attributes:
        stubborn: while it is set, a wait ends by this scope's cancellation alone,
            and not by that of the task, so that a write is told its outcome.
        committing: what was sent may have been committed, if the answer is lost.
    """

    stubborn: anyio.CancelScope | None = None
    committing: bool = False
    _transformer: psycopg.abc.Transformer
    _names: dict[Any, bytes]  # of prepared statements
    _latest: int = 0

    @classmethod
    async def dial(cls, params: dict[str, Any]) -> Self:
        """Connect; every statement is a transaction of its own unless one is begun.

        Raises:
            psycopg.Error: no server could be reached, or it refused.
        """
        problem: psycopg.Error | None = None
        for attempt in await _attempts(params):
            try:
                connection = await cls._dial(conninfo.make_conninfo("", **attempt))
            except psycopg.Error as error:
                problem = error
            else:
                connection._autocommit = True
                connection.prepare_threshold = 3
                register(connection)
                connection._transformer = Transformer(connection)
                connection._names = {}
                return connection
        assert problem is not None
        raise problem

    @classmethod
    async def _dial(cls, text: str) -> Self:
        steps = cls._connect_gen(text)
        try:
            fileno, wanted = next(steps)
            while True:
                fileno, wanted = steps.send(await _ready(fileno, wanted))
        except StopIteration as stop:
            connection: Self = stop.value
            return connection
        finally:
            steps.close()

    async def wait(
        self,
        gen: Generator[Any, Any, T],
        interval: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own
    ) -> T:
        """Run one of psycopg's generators to its end."""
        fileno = self.pgconn.socket
        try:
            wanted = next(gen)
            turns = 0
            while True:
                # A long answer comes in pieces, most of which are there already. At the first,
                # and now and then, the loop has its turn.
                ready = _now(fileno, wanted) if turns % _AT_ONCE or wanted != _READ else 0
                turns += wanted == _READ
                wanted = gen.send(ready or await self._until_ready(fileno, wanted))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def repeat(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of a statement that is run again and again, with ``%s`` for each value.

        It is prepared at its first use, and has no cursor, which takes a sixth of the time of a
        small read.
        """
        try:
            return await self._repeat(sql, values)
        except errors.InvalidSqlStatementName:
            # psycopg has all that is prepared forgotten, some time after a ROLLBACK.
            self._names.clear()
            return await self._repeat(sql, values)

    async def _repeat(self, sql: str, values: Sequence[Any]) -> list[Any]:
        transformer = self._transformer
        params = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        key = sql, transformer.types
        name = self._names.get(key) or await self._prepare(*key)
        self.pgconn.send_query_prepared(
            name, params, param_formats=transformer.formats, result_format=Format.BINARY
        )
        result = await self._result()
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)  # so that nothing keeps it
        return rows

    async def _prepare(self, sql: str, types: tuple[int, ...] | None) -> bytes:
        numbers = count(1)
        text = re.sub("%s", lambda _: f"${next(numbers)}", sql)
        self._latest += 1
        name = f"asynchistory_{self._latest}".encode()
        self.pgconn.send_prepare(name, text.encode(), param_types=types)
        await self._result()
        self._names[sql, types] = name
        return name

    async def _result(self) -> Any:
        result = (await self.wait(generators.execute(self.pgconn)))[-1]
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise errors.error_from_result(result)
        return result

    async def _until_ready(self, fileno: int, wanted: int) -> Any:
        while True:
            try:
                return await _ready(fileno, wanted)
            except anyio.get_cancelled_exc_class():
                if self.stubborn is None or self.stubborn.cancel_called:
                    raise

    @property
    def idle(self) -> bool:
        """Whether it is between two transactions."""
        pgconn = self.pgconn
        return (
            pgconn.status == ConnStatus.OK and pgconn.transaction_status == TransactionStatus.IDLE
        )

    @property
    def usable(self) -> bool:
        """Whether it is between two transactions, with the server still there."""
        # A server that went away has sent its goodbye.
        return self.idle and not _now(self.pgconn.socket, _READ)

    def discard(self) -> None:
        """Close it, whatever is under way."""
        with suppress(psycopg.Error):
            anyio.notify_closing(self.pgconn.socket)
        self._closed = True  # its __del__ warns of what was not closed
        self._transformer = Transformer()  # the other one holds this connection
        self.pgconn.finish()


async def _attempts(params: dict[str, Any]) -> list[dict[str, Any]]:
    """The addresses to try. Names are looked up in a thread, since libpq would block."""
    host = str(params.get("host") or "")
    if "," not in host and (not host or host.startswith("/") or params.get("hostaddr")):
        return [params]
    from psycopg._conninfo_attempts import conninfo_attempts

    found: Any = await anyio.to_thread.run_sync(conninfo_attempts, params, abandon_on_cancel=True)
    return list(found)


async def _ready(fileno: int, wanted: int) -> Any:
    if wanted == _READ:
        await anyio.wait_readable(fileno)
        return _READ
    ready = _now(fileno, wanted)
    if ready:
        return ready
    if wanted == _WRITE:
        await anyio.wait_writable(fileno)
        return _WRITE
    async with anyio.create_task_group() as tasks:

        async def first(wait: Any) -> None:
            await wait(fileno)
            tasks.cancel_scope.cancel()

        tasks.start_soon(first, anyio.wait_readable)
        tasks.start_soon(first, anyio.wait_writable)
    return _now(fileno, wanted)


def _now(fileno: int, wanted: int) -> int:
    """What of the wanted the socket is ready for."""
    readable, writable, _ = _select(fileno, wanted)
    return (_READ if readable else 0) | (_WRITE if writable else 0)


def _select(fileno: int, wanted: int) -> tuple[bool, bool, None]:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(
            fileno,
            (select.POLLIN if wanted & _READ else 0) | (select.POLLOUT if wanted & _WRITE else 0),
        )
        events = poll.poll(0)
        event = events[0][1] if events else 0
        other = event & ~(select.POLLIN | select.POLLOUT)  # an error, or a hang-up
        return bool(event & select.POLLIN or other), bool(event & select.POLLOUT or other), None
    found = select.select(
        [fileno] if wanted & _READ else [], [fileno] if wanted & _WRITE else [], [], 0
    )
    return bool(found[0]), bool(found[1]), None
