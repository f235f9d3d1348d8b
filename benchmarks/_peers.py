"""Other libraries' ways to append one message durably. A package that is missing is skipped."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

SESSIONS = 100
TEXT = ("The quick brown fox jumps over the lazy dog. " * 12)[:480]
ITEM = {"role": "user", "content": TEXT}

Append = Callable[[int], Awaitable[Any]]
Run = Callable[[Append], Awaitable[None]]


class Contender(NamedTuple):
    """``work(path, run)`` opens a file, hands ``run`` its append, and closes the file."""

    name: str
    work: Callable[[Path, Run], Awaitable[None]]
    synchronous: str
    note: str
    check: Callable[[], object] = lambda: None
    #: A product that people use for this. A plain loop is shown and is not counted as a peer.
    product: bool = True


async def openai_sqlite(path: Path, run: Run) -> None:
    from agents import SQLiteSession

    class Full(SQLiteSession):
        @staticmethod
        def _configure_connection(conn: sqlite3.Connection) -> None:
            SQLiteSession._configure_connection(conn)
            conn.execute("PRAGMA synchronous=FULL")

    sessions = [Full(f"chat-{number}", path) for number in range(SESSIONS)]
    try:
        await run(lambda session: sessions[session].add_items([ITEM]))
    finally:
        for session in sessions:
            session.close()


async def openai_async_sqlite(path: Path, run: Run) -> None:
    from agents.extensions.memory import AsyncSQLiteSession

    sessions = [AsyncSQLiteSession(f"chat-{number}", path) for number in range(SESSIONS)]
    try:
        for session in sessions:
            connection = await session._get_connection()
            await connection.execute("PRAGMA synchronous=FULL")
        await run(lambda session: sessions[session].add_items([ITEM]))
    finally:
        for session in sessions:
            await session.close()


async def langgraph(path: Path, run: Run) -> None:
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    configs = [
        {"configurable": {"thread_id": f"chat-{number}", "checkpoint_ns": ""}}
        for number in range(SESSIONS)
    ]

    async def append(session: int) -> None:
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": [ITEM]}
        metadata: Any = {"source": "input", "step": 1}
        configs[session] = await saver.aput(configs[session], checkpoint, metadata, {})

    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        await saver.setup()
        await saver.conn.execute("PRAGMA synchronous=FULL")
        await run(append)


async def aiosqlite_shared(path: Path, run: Run) -> None:
    await _aiosqlite(path, run, nullcontext())


async def aiosqlite_locked(path: Path, run: Run) -> None:
    await _aiosqlite(path, run, asyncio.Lock())


async def _aiosqlite(path: Path, run: Run, guard: AbstractAsyncContextManager[Any]) -> None:
    import aiosqlite

    seqs = [0] * SESSIONS

    async def append(session: int) -> None:
        seqs[session] += 1
        row = (session, seqs[session], TEXT)
        async with guard:
            await db.execute("INSERT INTO records(sid, seq, body) VALUES(?, ?, ?)", row)
            await db.commit()

    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(aiosqlite.connect(path))
        await db.execute("PRAGMA journal_mode=WAL")
        await db.execute("PRAGMA synchronous=FULL")
        await db.execute("CREATE TABLE records(sid INTEGER, seq INTEGER, body TEXT)")
        await db.execute("CREATE UNIQUE INDEX records_seq ON records(sid, seq)")
        await db.commit()
        await run(append)


def _has_agents() -> object:
    import agents

    return agents


def _has_async_agents() -> object:
    import agents.extensions.memory as memory

    try:
        return memory.AsyncSQLiteSession
    except AttributeError as error:
        raise ImportError("no AsyncSQLiteSession", name="AsyncSQLiteSession") from error


def _has_langgraph() -> object:
    import langgraph.checkpoint.sqlite.aio as aio

    return aio


def _has_aiosqlite() -> object:
    import aiosqlite

    return aiosqlite


PEERS = (
    Contender(
        "OpenAI Agents SQLiteSession", openai_sqlite, "FULL", "a session object each",
        _has_agents,
    ),
    Contender(
        "OpenAI Agents AsyncSQLiteSession", openai_async_sqlite, "FULL",
        "a connection and thread each", _has_async_agents,
    ),
    Contender(
        "LangGraph AsyncSqliteSaver", langgraph, "FULL", "a checkpoint of one message",
        _has_langgraph,
    ),
    Contender(
        "aiosqlite loop, shared", aiosqlite_shared, "FULL",
        "one connection, no isolation: a commit or rollback takes others' inserts along",
        _has_aiosqlite, product=False,
    ),
    Contender(
        "aiosqlite loop, locked", aiosqlite_locked, "FULL",
        "one connection, a lock around insert and commit", _has_aiosqlite, product=False,
    ),
)  # fmt: skip
