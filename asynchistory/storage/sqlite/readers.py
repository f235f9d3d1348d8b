"""The connections that read: in threads of their own, and one for look-ups in the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from asynchistory.errors import NotOpenError
from asynchistory.runs import Waiter, new_waiter, wake
from asynchistory.storage.sqlite.monitor import check_present
from asynchistory.storage.sqlite.schema import connect, translate

T = TypeVar("T")

#: Threads that read; with the writer these are all the threads of a file.
READERS = 4


class Readers:
    """Reads of one open file."""

    def __init__(self, path: Path, durability: str, timeout: float) -> None:
        self._path = path
        self._durability = durability
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="asynchistory-reader")
        self._spare: list[apsw.Connection] = []
        self._glance_lock = threading.Lock()
        self._glance: apsw.Connection | None = None

    def open(self) -> None:
        """Open what look-ups use; the file exists now."""
        self._glance = self._connect(0)

    def _connect(self, timeout: float) -> apsw.Connection:
        return connect(self._path, durability=self._durability, timeout=timeout)

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Have ``work`` done by a reader thread, inside one read transaction."""
        waiter = new_waiter()
        outcome: list[Any] = [None, None]
        try:
            self._pool.submit(self._read, work, outcome, waiter)
        except RuntimeError:  # closed since, or the interpreter is exiting
            raise NotOpenError(f"{self._path} is closed; open the history again") from None
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
        with self._glance_lock:
            if self._glance is None:
                return None
            try:
                check_present(self._glance, self._path)
                return self._glance.execute(sql, bindings).fetchall()
            except (apsw.BusyError, apsw.LockedError):
                return None
            except apsw.Error as error:
                raise translate(error, self._path) from None

    def close(self) -> None:
        """Wait for reads under way and close the connections."""
        self._pool.shutdown(wait=True)
        with self._glance_lock:
            connections = [*self._spare, self._glance]
            self._glance = None
        for connection in connections:
            if connection is not None:
                with suppress(apsw.Error):
                    connection.close(True)

    # -- in the reader threads

    def _read(
        self, work: Callable[[apsw.Connection], Any], outcome: list[Any], waiter: Waiter
    ) -> None:
        try:
            outcome[0] = self._read_once(work)
        except BaseException as error:
            outcome[1] = translate(error, self._path) if isinstance(error, apsw.Error) else error
        wake((waiter,))

    def _read_once(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = self._connect(self._timeout)
        try:
            check_present(connection, self._path)
            connection.execute("BEGIN")
            return work(connection)
        finally:
            if connection.in_transaction:
                connection.execute("COMMIT")
            self._spare.append(connection)
