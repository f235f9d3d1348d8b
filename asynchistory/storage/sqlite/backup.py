"""A copy of the database file, made while it is in use.

Page by page through SQLite's backup, and not by VACUUM INTO: it can stop between two steps, it
costs no rebuilding of tables, and the copy is the database as it is. All pages are read in one
read transaction. So they are those of one moment, writers go on (into the write-ahead log, which
grows meanwhile), and no write makes the backup begin again, as it would without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import apsw

from asynchistory.errors import BackupExistsError, StorageUnavailableError
from asynchistory.storage.sqlite.schema import connect, sync_folder, translate
from asynchistory.storage.sqlite.stopping import Stop

#: Pages that one step copies: a megabyte, in a few milliseconds.
PAGES = 256


def backup(db: apsw.Connection, source: Path, target: Path, overwrite: bool, stop: Stop) -> None:
    """See :meth:`asynchistory.storage.port.Storage.backup`. In a read transaction of ``db``.

    It is written under another name in the same folder, and takes its own once it
    is on disk as a whole: until then nothing can be taken for a backup that is none.
    """
    with _explained(target):
        _check(source, target, overwrite)
        part = target.with_name(f".{uuid4().hex}.backup-part")
        try:
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            _copy(db, part, stop)
            stop.claim()
            _name(part, target, overwrite)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target)


def _check(source: Path, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise StorageUnavailableError(f"{target} is a folder; use the name of a file in it")
    if target.exists() and (not overwrite or target.samefile(source)):
        raise _exists(target)
    for suffix in ("-wal", "-journal"):
        # SQLite would take it for the copy's own, and mix what is in it into the copy.
        if target.with_name(target.name + suffix).exists():
            raise BackupExistsError(
                f"{target}{suffix} belongs to a database that is, or was, in use under that name; "
                "use another name"
            )


def _exists(target: Path) -> BackupExistsError:
    return BackupExistsError(
        f"{target} exists; use another name, or put the backup in its place (overwrite=True, "
        "--overwrite) if that is an earlier backup"
    )


def _copy(db: apsw.Connection, part: Path, stop: Stop) -> None:
    # A transaction that has not read yet has no moment that it stands at.
    db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    with closing(connect(part, durability="full", timeout=0)) as copy:
        copy.pragma("journal_mode", "off")  # half a copy is thrown away, and not rolled back
        with copy.backup("main", db, "main") as pages:
            while not pages.done:
                stop.check()
                pages.step(PAGES)
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def _name(part: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        part.replace(target)
        return
    try:
        os.link(part, target)  # of all ways the one that never takes the place of another file
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without links
        if target.exists():
            raise _exists(target) from None
        part.rename(target)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say of what fails in writing that it is the copy's file, and not the database's."""
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, OSError) as error:
        raise translate(error, target) from None
