"""Running SQL inside a transaction, or as statements of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asynchistory.storage.postgres.waiting import Connection


class Statements:
    """A connection that runs SQL for one operation."""

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection = connection

    async def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """All rows of a query."""
        cursor = await self.connection.execute(sql, values or None, binary=True)
        return await cursor.fetchall()

    async def repeated(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of one of the few statements that most calls run."""
        return await self.connection.repeat(sql, values)

    async def scalar(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row."""
        return (await self.rows(sql, values))[0][0]

    async def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run what has no rows; returns how many it changed."""
        # Without values, several statements may stand in one text.
        return (await self.connection.execute(sql, values or None)).rowcount

    @asynccontextmanager
    async def one_moment(self, settings: str = "") -> AsyncGenerator[None, None]:
        """A block whose reads all see the same moment."""
        await self.connection.execute(
            f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings}"
        )
        try:
            yield
        except Exception:
            # Anything but a cancellation, which leaves a connection that is discarded.
            if self.connection.pgconn.status == 0:
                await self.connection.execute("ROLLBACK")
            raise
        await self.connection.execute("COMMIT")

    async def stream(
        self, sql: str, values: Sequence[Any] = (), size: int = 2_000
    ) -> AsyncGenerator[list[Any], None]:
        """Rows of a query, some at a time. To be closed; one at a time in a transaction."""
        await self.connection.execute(f"DECLARE asynchistory NO SCROLL CURSOR FOR {sql}", values)
        while found := await self.rows(f"FETCH {size} FROM asynchistory"):
            yield found
        await self.connection.execute("CLOSE asynchistory")
