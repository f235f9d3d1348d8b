"""Idempotency keys in SQL.

They are clustered by key and not by session: an application's keys mostly grow
with time, and so a commit for a hundred sessions writes one page of them and not
a hundred. Each leads to the one before it of its session, which is how all of a
session's are found.
"""

from __future__ import annotations

import apsw

from asynchistory.storage.port import Key
from asynchistory.storage.sqlite.sql import rows

_INSERT = "INSERT INTO idempotency VALUES(?,?,?,?,?,?,?,?)"
_LEAD = "UPDATE sessions SET last_key = ? WHERE sid = ?"
_COLUMNS = "i.key, i.digest, i.epoch, i.first_seq, i.last_seq, i.removed"
_FIND = f"SELECT {_COLUMNS} FROM idempotency i WHERE i.key = ? AND i.sid = ?"
_CHAIN = (
    "WITH RECURSIVE chain(sid, key) AS ("
    "SELECT sid, last_key FROM sessions WHERE sid = ? AND last_key IS NOT NULL UNION ALL "
    "SELECT c.sid, i.prev FROM chain c JOIN idempotency i ON i.key = c.key AND i.sid = c.sid "
    "WHERE i.prev IS NOT NULL) "
)


#: Keys by session and name, each with the one before it of its session.
Gathered = dict[tuple[int, str], tuple[Key, str | None]]


def insert(db: apsw.Connection, gathered: Gathered) -> None:
    """Store keys, and lead each session to its last one."""
    rows = [(key.key, sid, *key[1:], prev) for (sid, _), (key, prev) in gathered.items()]
    db.executemany(_INSERT, rows)
    last = dict(gathered.keys())  # by session: of several the one that came last
    db.executemany(_LEAD, [(key, sid) for sid, key in last.items()])


def find(db: apsw.Connection, sid: int, key: str) -> Key | None:
    """One key of a session."""
    found = rows(db, _FIND, (key, sid))
    return Key(*found[0]) if found else None


def of_session(db: apsw.Connection, sid: int) -> list[Key]:
    """All keys of a session, in their own order."""
    sql = f"{_CHAIN} SELECT {_COLUMNS} FROM chain JOIN idempotency i USING(key, sid) ORDER BY i.key"
    return [Key(*row) for row in rows(db, sql, (sid,))]


def delete(db: apsw.Connection, sid: int) -> None:
    """Delete the keys of a session."""
    db.execute(
        f"{_CHAIN} DELETE FROM idempotency WHERE (key, sid) IN (SELECT key, sid FROM chain)", (sid,)
    )
