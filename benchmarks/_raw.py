"""SQLite by itself: apsw in one thread, a plain table, no event loop and nobody to wake."""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from benchmarks._contender import SESSIONS, TEXT

#: The table that the limits and the plain loops write to.
TABLE = (
    "CREATE TABLE records(rowid INTEGER PRIMARY KEY, sid INTEGER, seq INTEGER, body TEXT)",
    "CREATE UNIQUE INDEX records_seq ON records(sid, seq)",
)
INSERT = "INSERT INTO records(sid, seq, body) VALUES(?, ?, ?)"


def open_plain(path: Path) -> apsw.Connection:
    """A new file with the plain table, WAL and synchronous=FULL."""
    db = apsw.Connection(str(path))
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *TABLE):
        db.execute(statement)
    return db


def groups(path: Path, seconds: float) -> tuple[int, float]:
    """The rows stored at 100 a transaction, one a session, and the seconds that it took."""
    db = open_plain(path)
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        seq = count // SESSIONS + 1
        db.execute("BEGIN IMMEDIATE")
        db.executemany(INSERT, [(session, seq, TEXT) for session in range(SESSIONS)])
        db.execute("COMMIT")
        count += SESSIONS
    db.close()
    return count, taken


def commits(path: Path, seconds: float) -> list[float]:
    """What each commit of one row took, in seconds, all in one session."""
    db = open_plain(path)
    taken: list[float] = []
    start = before = time.perf_counter()
    while before - start < seconds:
        db.execute("BEGIN IMMEDIATE")
        db.execute(INSERT, (0, len(taken) + 1, TEXT))
        db.execute("COMMIT")
        now = time.perf_counter()
        taken.append(now - before)
        before = now
    db.close()
    return taken
