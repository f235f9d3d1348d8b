"""This library's ways to append: as it comes, with idempotency keys, with its cache filled."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from benchmarks._contender import TEXT, Contender, Run, names

OURS = "asynchistory"
KEYED = "asynchistory, keyed"
HELD = "asynchistory, tails held"
LOOPS = ("asyncio", "trio")


async def plain(path: Path, sessions: int, run: Run) -> None:
    """Append as an application does that has read nothing yet."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        ids = names(sessions)

        async def append(session: int) -> None:
            await history.append(ids[session], Message.of("user", TEXT))

        await run(append)


async def keyed(path: Path, sessions: int, run: Run) -> None:
    """Every append has an idempotency key, made for it as the application would make it."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        ids, keys = names(sessions), time_ordered()

        async def append(session: int) -> None:
            await history.append(ids[session], Message.of("user", TEXT), idempotency_key=next(keys))

        await run(append)


async def held(path: Path, sessions: int, run: Run) -> None:
    """The cache holds the tail of every session, so that each append also extends one."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        ids = names(sessions)
        for session in ids:
            await history.append(session, Message.of("user", TEXT))
            await history.last(session)

        async def append(session: int) -> None:
            await history.append(ids[session], Message.of("user", TEXT))

        await run(append)


def time_ordered() -> Iterator[str]:
    """Keys like UUIDv7: milliseconds, a counter within the process, and chance behind them."""
    for number in itertools.count():
        stamp = time.time_ns() // 1_000_000
        yield f"{stamp:012x}-7{number & 0xFFF:03x}-{os.urandom(8).hex()}"


def contenders() -> list[Contender]:
    """Each of them on both event loops."""
    kinds = (
        (OURS, plain, ""),
        (KEYED, keyed, "a time-ordered idempotency key on each append"),
        (HELD, held, "the cache holds each session's tail, and each append extends it"),
    )
    return [
        Contender(name, work, note, loop=loop, ours=True)
        for name, work, note in kinds
        for loop in LOOPS
    ]
