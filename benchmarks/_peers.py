"""Other libraries' ways to append one message durably. A package that is missing is skipped."""

from __future__ import annotations

import asyncio
import sqlite3
import warnings
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

from benchmarks._contender import ITEM, TEXT, Contender, Run, names
from benchmarks._raw import INSERT, TABLE


async def openai_sqlite(path: Path, sessions: int, run: Run) -> None:
    from agents import SQLiteSession

    class Full(SQLiteSession):
        @staticmethod
        def _configure_connection(conn: sqlite3.Connection) -> None:
            SQLiteSession._configure_connection(conn)
            conn.execute("PRAGMA synchronous=FULL")

    opened = [Full(name, path) for name in names(sessions)]
    try:
        await run(lambda session: opened[session].add_items([ITEM]))
    finally:
        for session in opened:
            session.close()


async def openai_async_sqlite(path: Path, sessions: int, run: Run) -> None:
    from agents.extensions.memory import AsyncSQLiteSession

    opened = [AsyncSQLiteSession(name, path) for name in names(sessions)]
    try:
        for session in opened:
            connection = await session._get_connection()
            await connection.execute("PRAGMA synchronous=FULL")
        await run(lambda session: opened[session].add_items([ITEM]))
    finally:
        for session in opened:
            await session.close()


async def langgraph(path: Path, sessions: int, run: Run) -> None:
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    configs: list[Any] = [
        {"configurable": {"thread_id": name, "checkpoint_ns": ""}} for name in names(sessions)
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


async def langchain(path: Path, sessions: int, run: Run) -> None:
    from langchain_community.chat_message_histories import SQLChatMessageHistory
    from langchain_core.messages import HumanMessage
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    message = HumanMessage(TEXT)
    try:
        histories = [SQLChatMessageHistory(name, connection=engine) for name in names(sessions)]
        for history in histories:
            await history.aget_messages()  # makes the table, which two at once would both try to
        await run(lambda session: histories[session].aadd_message(message))
    finally:
        await engine.dispose()


async def aiosqlite_shared(path: Path, sessions: int, run: Run) -> None:
    await _aiosqlite(path, sessions, run, nullcontext())


async def aiosqlite_locked(path: Path, sessions: int, run: Run) -> None:
    await _aiosqlite(path, sessions, run, asyncio.Lock())


async def _aiosqlite(
    path: Path, sessions: int, run: Run, guard: AbstractAsyncContextManager[Any]
) -> None:
    import aiosqlite

    seqs = [0] * sessions

    async def append(session: int) -> None:
        seqs[session] += 1
        row = (session, seqs[session], TEXT)
        async with guard:
            await db.execute(INSERT, row)
            await db.commit()

    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(aiosqlite.connect(path))
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *TABLE):
            await db.execute(statement)
        await db.commit()
        await run(append)


# -- what is installed


def has_agents() -> object:
    import agents

    return agents


def has_async_agents() -> object:
    import agents.extensions.memory as memory

    try:
        return memory.AsyncSQLiteSession
    except AttributeError as error:
        raise ImportError("no AsyncSQLiteSession", name="AsyncSQLiteSession") from error


def has_langgraph() -> object:
    import langgraph.checkpoint.sqlite.aio as aio

    return aio


def has_langchain() -> object:
    import greenlet
    import sqlalchemy.ext.asyncio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says at each import that it is being sunset
        import langchain_community.chat_message_histories.sql as sql
    return has_aiosqlite(), greenlet, sqlalchemy, sql


def has_aiosqlite() -> object:
    import aiosqlite

    return aiosqlite


OPENAI = Contender(
    "OpenAI Agents SQLiteSession", openai_sqlite, "a session object each", has_agents, product=True
)
AIOSQLITE = Contender(
    "aiosqlite loop, locked", aiosqlite_locked, "one connection, a lock around insert and commit",
    has_aiosqlite,
)  # fmt: skip
PEERS = (
    OPENAI,
    Contender(
        "OpenAI Agents AsyncSQLiteSession", openai_async_sqlite, "a connection and thread each",
        has_async_agents, product=True,
    ),
    Contender(
        "LangGraph AsyncSqliteSaver", langgraph, "a checkpoint of one message", has_langgraph,
        product=True,
    ),
    Contender(
        "LangChain SQLChatMessageHistory", langchain, "aiosqlite by SQLAlchemy's pool",
        has_langchain, product=True,
    ),
    AIOSQLITE,
    Contender(
        "aiosqlite loop, shared", aiosqlite_shared,
        "one connection, no isolation: a commit or rollback takes others' inserts along",
        has_aiosqlite,
    ),
)  # fmt: skip
