"""Running SQL, with the types that the driver cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw


def rows(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    """All rows of a query. Fetching them all also ends the statement, and so its read lock."""
    return db.execute(sql, values).fetchall()


def scalar(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row."""
    return rows(db, sql, values)[0][0]
