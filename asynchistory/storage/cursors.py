"""Page cursors: opaque to callers, ``epoch.seq`` to us."""

from __future__ import annotations

import re

from asynchistory.errors import EpochChangedError, InvalidQueryError

_FORM = re.compile(r"[0-9]{1,18}\.[0-9]{1,18}")


def make_cursor(epoch: int, seq: int) -> str:
    """The cursor of a record."""
    return f"{epoch}.{seq}"


def parse_cursor(cursor: str) -> tuple[int, int]:
    """The two numbers of a cursor.

    Raises:
        InvalidQueryError: it is not a cursor.
    """
    if not isinstance(cursor, str) or not _FORM.fullmatch(cursor):
        raise InvalidQueryError("a cursor must be the `next` of a page, passed back as it is")
    first, _, second = cursor.partition(".")
    return int(first), int(second)


def seq_of(cursor: str, session_id: str, epoch: int) -> int:
    """The seq that a cursor stands at.

    Raises:
        EpochChangedError: the session was rewritten since it was made.
    """
    made, seq = parse_cursor(cursor)
    if made != epoch:
        raise EpochChangedError(session_id)
    return seq
