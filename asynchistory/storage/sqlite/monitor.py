"""What is watched of an open file: that it is still there, and how its commits go."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from asynchistory.errors import StorageUnavailableError
from asynchistory.queries import StoreStatistics


class Presence:
    """Whether a connection's file is still the one that is found at its path.

    SQLite goes on with a file that was deleted or replaced: what is written
    then is gone when it is closed.
    """

    def __init__(self, db: apsw.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._gone = ctypes.c_int(0)
        self._address = ctypes.addressof(self._gone)

    def check(self) -> None:
        """Raise unless it is. In the connection's thread; takes about a microsecond.

        Raises:
            StorageUnavailableError: it was deleted, or another one is in its place.
        """
        self._db.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, self._address)
        if self._gone.value:
            raise moved(self._path)


def moved(path: Path) -> StorageUnavailableError:
    """The error of a file that is no longer the one that was opened."""
    return StorageUnavailableError(
        f"{path} was deleted or replaced while it was open; close the history, "
        "put the file back, and open it again"
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Tells the file of this name from others that had or will have it; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class Counters:
    """What the writer counts."""

    def __init__(self) -> None:
        self._commits = 0
        self._writes = 0
        self._largest = 0
        self._total = 0.0
        self._longest = 0.0
        self._last: float | None = None
        #: Seconds that commits took lately.
        self.recent_commit: float = 0.0

    @contextmanager
    def commit(self, writes: int) -> Iterator[None]:
        """Count a commit of so many writes, unless it fails."""
        start = time.perf_counter()
        yield
        taken = self._last = time.perf_counter() - start
        self.recent_commit += (taken - self.recent_commit) / 4
        self._commits += 1
        self._writes += writes
        self._largest = max(self._largest, writes)
        self._total += taken
        self._longest = max(self._longest, taken)

    def statistics(self, queued: int, waiting: int) -> StoreStatistics:
        """The counts, with the lengths of the queue now."""
        return StoreStatistics(
            queued=queued,
            waiting=waiting,
            commits=self._commits,
            writes=self._writes,
            largest_group=self._largest,
            last_commit=self._last,
            mean_commit=self._total / self._commits if self._commits else None,
            longest_commit=self._longest if self._commits else None,
        )


def probe(db: apsw.Connection, path: Path) -> tuple[int, int]:
    """Read something; returns the bytes of the database and of its write-ahead log."""
    db.execute("SELECT count(*) FROM counters").fetchall()
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size, log.stat().st_size if log.exists() else 0
