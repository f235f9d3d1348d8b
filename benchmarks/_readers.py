"""Ways to read the last messages of one session from a database of many.

Each opens its database, and for a session gives the one call that is timed. A
session object of OpenAI's has a connection of its own, which it makes when it first
reads: that is part of reading a session there. Rows of their own show objects that
have read their session before, so that connection, schema and pages are at hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _peers
from benchmarks._contender import nothing
from benchmarks._databases import Corpus
from benchmarks._ours import LOOPS, OURS

COUNT = 50

Read = Callable[[], Awaitable[Sequence[Any]]]
#: Gives a session's read; what is opened for it is closed behind it.
Session = Callable[[int], AbstractAsyncContextManager[Read]]

_QUERY = "SELECT body FROM records WHERE sid = ? ORDER BY seq DESC LIMIT ?"


class Reader(NamedTuple):
    """A way to read, on one event loop."""

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[Session]]
    database: Callable[[Corpus], Path]
    note: str = ""
    check: Callable[[], object] = nothing
    product: bool = False
    loop: str = "asyncio"


@asynccontextmanager
async def ours(path: Path) -> AsyncIterator[Session]:
    """From the store: the level ``fresh`` neither looks into the cache nor fills it."""
    from asynchistory import AsyncHistoryManager, SQLiteStorage

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:

        @asynccontextmanager
        async def session(number: int) -> AsyncIterator[Read]:
            yield lambda: history.last(f"chat-{number}", COUNT, level="fresh")

        yield session


@asynccontextmanager
async def openai_sqlite(path: Path, *, connected: bool = False) -> AsyncIterator[Session]:
    """If connected before: by one worker thread, which then has the session's connection."""
    from agents import SQLiteSession

    @asynccontextmanager
    async def session(number: int) -> AsyncIterator[Read]:
        opened = SQLiteSession(f"chat-{number}", path)
        try:
            if connected:
                await opened.get_items(limit=1)
            yield lambda: opened.get_items(limit=COUNT)
        finally:
            opened.close()

    with ThreadPoolExecutor(1 if connected else None) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        yield session


@asynccontextmanager
async def openai_async_sqlite(path: Path, *, connected: bool = False) -> AsyncIterator[Session]:
    from agents.extensions.memory import AsyncSQLiteSession

    @asynccontextmanager
    async def session(number: int) -> AsyncIterator[Read]:
        opened = AsyncSQLiteSession(f"chat-{number}", path)
        try:
            if connected:
                await opened.get_items(limit=1)
            yield lambda: opened.get_items(limit=COUNT)
        finally:
            await opened.close()

    yield session


@asynccontextmanager
async def aiosqlite_loop(path: Path) -> AsyncIterator[Session]:
    import aiosqlite
    import msgspec

    async with aiosqlite.connect(path) as db:

        @asynccontextmanager
        async def session(number: int) -> AsyncIterator[Read]:
            async def read() -> list[Any]:
                rows = await db.execute_fetchall(_QUERY, (number, COUNT))
                return [msgspec.json.decode(body) for (body,) in rows][::-1]

            yield read

        yield session


@asynccontextmanager
async def raw(path: Path) -> AsyncIterator[Session]:
    """In the thread of the loop, which waits: the floor, and no way to serve anyone else."""
    import apsw
    import msgspec

    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)

    @asynccontextmanager
    async def session(number: int) -> AsyncIterator[Read]:
        async def read() -> list[Any]:
            rows: list[Any] = db.execute(_QUERY, (number, COUNT)).fetchall()
            return [msgspec.json.decode(body) for (body,) in rows][::-1]

        yield read

    try:
        yield session
    finally:
        db.close()


def texts(messages: Sequence[Any]) -> list[str]:
    """What was read, in whatever form the library hands it out."""
    return [one["content"] if isinstance(one, dict) else one.text for one in messages]


READERS = (
    *(Reader(OURS, ours, Corpus.ours, "records, checksums checked", loop=loop) for loop in LOOPS),
    Reader(
        "OpenAI Agents SQLiteSession", openai_sqlite, Corpus.openai, "object made before",
        _peers.has_agents, product=True,
    ),
    Reader(
        "OpenAI Agents AsyncSQLiteSession", openai_async_sqlite, Corpus.openai,
        "object made before", _peers.has_async_agents, product=True,
    ),
    Reader(
        "OpenAI Agents SQLiteSession, connected", partial(openai_sqlite, connected=True),
        Corpus.openai, "has read this session before, in its thread", _peers.has_agents,
    ),
    Reader(
        "OpenAI Agents AsyncSQLiteSession, connected",
        partial(openai_async_sqlite, connected=True), Corpus.openai,
        "has read this session before", _peers.has_async_agents,
    ),
    Reader(
        "aiosqlite loop", aiosqlite_loop, Corpus.plain, "one connection, msgspec",
        _peers.has_aiosqlite,
    ),
    Reader("raw", raw, Corpus.plain, "apsw and msgspec in the loop's own thread"),
)  # fmt: skip
