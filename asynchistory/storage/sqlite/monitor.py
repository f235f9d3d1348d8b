"""What is watched of an open file: that it is still there, and how its commits go."""

from __future__ import annotations

import ctypes
from pathlib import Path

import apsw

from asynchistory.errors import StorageUnavailableError


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


def probe(db: apsw.Connection, path: Path) -> tuple[int, int]:
    """Read something; returns the bytes of the database and of its write-ahead log."""
    db.execute("SELECT count(*) FROM counters").fetchall()
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size, log.stat().st_size if log.exists() else 0
