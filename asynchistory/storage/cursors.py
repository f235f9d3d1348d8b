"""Page cursors: opaque to callers, ``epoch.seq`` to us."""

from __future__ import annotations

from asynchistory.errors import EpochChangedError, InvalidQueryError


def make_cursor(epoch: int, seq: int) -> str:
    """The cursor of a record."""
    return f"{epoch}.{seq}"


def parse_cursor(cursor: str) -> tuple[int, int]:
    """The two numbers of a cursor.

    Raises:
        InvalidQueryError: it is not a cursor.
    """
    first, dot, second = str(cursor).partition(".")
    if not (dot and first.isdecimal() and second.isdecimal() and len(cursor) <= 40):
        raise InvalidQueryError("a cursor must be the `next` of a page, passed back as it is")
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
