"""Changes of watched sessions, as the server tells them (LISTEN and NOTIFY).

Every NOTIFY makes commits wait for each other, so that only what somebody waits
for is told: who waits says so in the session's row, for a minute, and whoever
writes to the session finds it there.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import psycopg

from asynchistory.errors import StorageError
from asynchistory.runs import start_task
from asynchistory.storage.announcements import POLL, Announcements
from asynchistory.storage.postgres.waiting import Connection

if TYPE_CHECKING:
    from asynchistory.storage.postgres.lane import Lane

#: Seconds that a session is watched for, and after which that is prolonged.
_LEASE, _RENEW = 60.0, 20.0
#: Seconds between two looks at the store while the server tells what changes, in case it cannot.
_SELDOM = 1.0
_WATCH = (
    f"UPDATE sessions SET watched = now_us() + {int(_LEASE * 1e6)} WHERE id = ANY(%s) RETURNING id"
)


class Listener:
    """One run's ear. A task of the run has its connection, for as long as anybody waits."""

    def __init__(self, lane: Lane, announcements: Announcements) -> None:
        self._lane = lane
        self._announcements = announcements
        self._waits: dict[str, int] = {}
        self._watched: dict[str, tuple[int, float]] = {}  # epoch, and until when
        self._scope: anyio.CancelScope | None = None
        self._ready = anyio.Event()
        self._hears = False

    def poll(self) -> float:
        """Seconds after which to look whether something has changed."""
        return _SELDOM if self._hears else POLL

    def close(self) -> None:
        """Stop listening."""
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def waiting(self, session_id: str) -> Generator[None, None, None]:
        """A block in which one task more waits for this session."""
        self._waits[session_id] = self._waits.get(session_id, 0) + 1
        try:
            yield
        finally:
            self._waits[session_id] -= 1
            if not self._waits[session_id]:
                del self._waits[session_id]

    async def hear(self, session_id: str, epoch: int | None) -> None:
        """Be told of this session's changes, if that can be. Inside :meth:`waiting`."""
        if epoch is None:
            return  # there is no row to say so in
        if self._scope is None:
            self._scope = anyio.CancelScope()
            self._ready = anyio.Event()
            start_task(self._listen)
        await self._ready.wait()
        known, until = self._watched.get(session_id, (0, 0.0))
        if not self._hears or (known == epoch and time.monotonic() < until - _RENEW):
            return
        try:
            await self._lane.read(lambda db: db.rows(_WATCH, ([session_id],)))
        except StorageError:
            return  # looking finds out as well
        self._watched[session_id] = (epoch, time.monotonic() + _LEASE)

    async def _listen(self) -> None:
        scope = self._scope
        assert scope is not None
        connection: Connection | None = None
        try:
            with scope:
                # At once or not at all: whoever waits can look instead.
                connection = await self._lane.connect(patience=0)
                connection.add_notify_handler(
                    lambda notify: self._announcements.tell(notify.payload)
                )
                await connection.execute(f'LISTEN "{self._lane.server.address.schema}"')
                self._hears = True
                self._ready.set()
                while await self._turn(connection):
                    pass
        except (StorageError, psycopg.Error, OSError):
            pass  # whoever waits goes on by looking
        finally:
            if connection is not None:
                connection.discard()
            self._scope, self._hears = None, False
            self._watched.clear()
            self._ready.set()
            for session_id in self._waits:
                self._announcements.tell(session_id)

    async def _turn(self, connection: Connection) -> bool:
        """Hear what comes in the next while; False when nobody has waited in it."""
        with anyio.move_on_after(_RENEW):
            while True:
                # First what came along with the answer to a statement, and was read with it.
                while (notify := connection.pgconn.notifies()) is not None:
                    self._announcements.tell(notify.extra.decode())
                await anyio.wait_readable(connection.pgconn.socket)
                connection.pgconn.consume_input()
        waiting = list(self._waits)
        if waiting:
            await connection.execute(_WATCH, (waiting,))
            until = time.monotonic() + _LEASE
            for name in waiting:
                if name in self._watched:
                    self._watched[name] = (self._watched[name][0], until)
        return bool(waiting)
