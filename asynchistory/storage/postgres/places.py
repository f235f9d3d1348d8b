"""Where a session stands inside a transaction: found, locked, made.

All of what shares records is one family. Whatever changes what rests on what
holds the family's advisory lock; appends, which change none of that, lock their
session's row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynchistory.errors import SessionNotFoundError
from asynchistory.storage.postgres.schema import LOCK_CLASS
from asynchistory.storage.postgres.sql import Statements

_FIND = "SELECT sid, coalesce(family, sid) FROM sessions WHERE id = %s"
#: Locks a session's row, and says where it stands.
LOCK = (
    "SELECT sid, epoch, seq, base, base_seq, fork_seq, watched > now_us() FROM sessions "
    "WHERE sid = %s FOR NO KEY UPDATE"
)


class Place:
    """A locked session: where it stands inside this transaction."""

    def __init__(self, sid: int, family: int, row: Sequence[Any]) -> None:
        self.sid: int = sid
        self.family: int = family
        self.epoch: int = row[1]
        self.seq: int = row[2]
        self.base: int | None = row[3]
        self.base_seq: int = row[4]
        self.fork_seq: int = row[5]
        self.watched: bool = row[6]


async def lock(db: Statements, session_id: str) -> Place | None:
    """Lock a session, with its family; None if there is none."""
    while True:
        known = await db.rows(_FIND, (session_id,))
        if not known:
            return None
        sid, family = known[0]
        await db.run("SELECT pg_advisory_xact_lock(%s, %s)", lock_of(family))
        row = await db.rows(LOCK, (sid,))
        if row:
            return Place(sid, family, row[0])
        # Deleted meanwhile, and perhaps made again.


def lock_of(family: int) -> tuple[int, int]:
    """The advisory lock of a family."""
    # Two families may have the same number here: they then wait for each other, and no more.
    return LOCK_CLASS, family % 2**31


async def found(db: Statements, session_id: str) -> Place:
    """Lock a session, with its family.

    Raises:
        SessionNotFoundError: there is none.
    """
    place = await lock(db, session_id)
    if place is None:
        raise SessionNotFoundError(session_id)
    return place


async def next_epoch(db: Statements) -> int:
    """An epoch that no session ever had."""
    epoch: int = await db.scalar("SELECT nextval('epochs')")
    return epoch


async def make(db: Statements, session_id: str) -> Place | None:
    """Make a session, locked; None if there is one."""
    made = await db.rows(
        "INSERT INTO sessions(id, created, updated, epoch) "
        "SELECT %s, m, m, nextval('epochs') FROM now_us() m "
        "ON CONFLICT DO NOTHING RETURNING sid, epoch",
        (session_id,),
    )
    if not made:
        return None
    sid, epoch = made[0]
    return Place(sid, sid, (sid, epoch, 0, None, 0, 0, False))


async def tell(db: Statements, session_id: str) -> None:
    """Tell those who wait for changes of the session, when this is committed."""
    await db.run("SELECT pg_notify(current_schema(), %s)", (session_id,))
