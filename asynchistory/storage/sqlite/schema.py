"""The database file: its schema, its settings, and who may open it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import apsw

from asynchistory.errors import (
    AsyncHistoryError,
    BusyError,
    ForeignDatabaseError,
    NewerSchemaError,
    StorageUnavailableError,
)
from asynchistory.storage.sqlite.migrations import MIGRATIONS, SCHEMA_VERSION

#: "AHIS": what SQLite keeps in the file's header to tell whose it is.
APPLICATION_ID = 0x41484953

_BESIDE = "and check that the file, those beside it and its folder can be read and written"
_CHECK = "check that the file and its folder can be read and written"


def create_file(path: Path) -> None:
    """Create the file if it is missing, readable for its owner alone.

    Its folder is synced, so that a power cut cannot take the file with the
    first commits in it.
    """
    if path.is_dir():
        raise _unavailable(path, "is a folder; use the name of a file in it")
    try:
        _make_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        sync_folder(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise translate(error, path) from None


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing, each durable in the one above."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable, where the platform can."""
    if os.name == "nt":
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(path: Path, *, durability: str, timeout: float) -> apsw.Connection:
    """Open a connection to an existing file, set up as all of ours are."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        _set_up(connection, durability, timeout)
    except BaseException:
        # Closed later, by the garbage collector, it would take along the log of whatever file
        # has this name by then.
        connection.close(True)
        raise
    return connection


def _set_up(connection: apsw.Connection, durability: str, timeout: float) -> None:
    connection.set_busy_timeout(int(timeout * 1000))
    synchronous = "FULL" if durability == "full" else "NORMAL"
    for pragma in (
        f"synchronous={synchronous}",
        "fullfsync=1",  # macOS, where a plain fsync does not reach the disk
        "checkpoint_fullfsync=1",
        "temp_store=MEMORY",
        "trusted_schema=OFF",
        "cell_size_check=ON",
        "secure_delete=ON",  # what is deleted is overwritten, or an erasure would not be one
    ):
        connection.execute(f"PRAGMA {pragma}")


def open_writer(path: Path, *, durability: str, timeout: float) -> apsw.Connection:
    """Open the file for writing; create or migrate its schema.

    Raises:
        StorageUnavailableError: it cannot be opened or written.
        ForeignDatabaseError: it is not a database, or not one of ours.
        NewerSchemaError: a newer version wrote it.
        BusyError: other processes kept it locked past the timeout.
    """
    create_file(path)
    _check_header(path)
    deadline = time.monotonic() + timeout
    connection = None
    while True:
        try:
            connection = connect(path, durability=durability, timeout=timeout)
            _prepare(connection, path)
            return connection
        except apsw.BusyError:
            # Switching to WAL does not wait for other processes that open the new file.
            _close(connection)
            if time.monotonic() > deadline:
                raise busy(path, timeout) from None
            time.sleep(0.005)
        except (apsw.Error, OSError) as error:
            _close(connection)
            raise translate(error, path) from None
        except AsyncHistoryError:
            _close(connection)
            raise


def _check_header(path: Path) -> None:
    """Refuse another application's file before SQLite has touched it.

    Opened and closed, a database that was left with a write-ahead log would be
    checkpointed. The fields are those of https://www.sqlite.org/fileformat.html#the_database_header.
    """
    try:
        # For writing too: SQLite would open a file read-only that may not be written, and leave
        # a log beside it that its owner then cannot write.
        with path.open("r+b") as file:
            header = file.read(100)
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}-wal").open("r+b").close()
    except OSError as error:
        raise translate(error, path) from None
    if not header:
        return
    if not any(header) and path.with_name(f"{path.name}-journal").exists():
        return  # a power cut came while the file was made; SQLite takes that back
    if not header.startswith(b"SQLite format 3\0"):
        raise _foreign(path, "not a database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise _foreign(path, "a database of another application")


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        connection.close(True)


def _prepare(connection: apsw.Connection, path: Path) -> None:
    if _check_owner(connection, path) == 0:
        # Before the write-ahead log, so that the file itself says whose it is from the start.
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    if (
        connection.pragma("journal_mode") != "wal"
        and connection.pragma("journal_mode", "wal") != "wal"
    ):
        raise _unavailable(path, "this file system cannot hold a write-ahead log; use a local disk")
    if connection.pragma("user_version") == SCHEMA_VERSION:
        return
    _migrate(connection, path)
    sync_folder(path)


def _migrate(connection: apsw.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again under the lock: another process may have just done it.
        version = _check_owner(connection, path)
        for step in MIGRATIONS[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_owner(connection: apsw.Connection, path: Path) -> int:
    """The schema version of a file that is ours or empty."""
    version: int = connection.pragma("user_version")
    owner = connection.pragma("application_id")
    empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if owner not in (0, APPLICATION_ID) or (owner == 0 and not empty):
        raise _foreign(path, "a database of another application")
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(version, SCHEMA_VERSION)
    return version


def translate(error: Exception, path: Path) -> AsyncHistoryError:
    """What a driver's error means to a caller."""
    if isinstance(error, AsyncHistoryError):
        return error
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return BusyError(f"{path} is locked by another process; try again")
    if isinstance(error, apsw.NotADBError):
        return _foreign(path, "not a database")
    if isinstance(error, apsw.FullError):
        return _unavailable(path, "the disk is full; free some space and try again")
    if isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError)):
        return _unavailable(path, _CHECK)
    if isinstance(error, apsw.CorruptError):
        return _unavailable(path, "the database is damaged; restore a backup")
    if isinstance(error, OSError):
        return _unavailable(path, f"{error.strerror or type(error).__name__}; {_CHECK}")
    code = getattr(error, "extendedresult", None)
    return _unavailable(
        path, f"{type(error).__name__} (SQLite code {code}); look after the disk, {_BESIDE}"
    )


def busy(path: Path, timeout: float) -> BusyError:
    """The error of a write that waited for another process's lock until its deadline."""
    return BusyError(
        f"{path} was locked by another process for {timeout:g} s; try again, or find what holds it"
    )


def _foreign(path: Path, what: str) -> ForeignDatabaseError:
    return ForeignDatabaseError(f"{path} is {what}; give asynchistory a file of its own")


def _unavailable(path: Path, reason: str) -> StorageUnavailableError:
    return StorageUnavailableError(f"{path}: {reason}")
