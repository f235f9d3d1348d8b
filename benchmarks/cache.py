"""The cache: a hit, a miss, memory, and what validation saves.

    python -m benchmarks.cache            a table for people
    python -m benchmarks.cache --json     one JSON object
    python -m benchmarks.cache --quick    a few seconds

*A hit* and *a miss* are awaited on asyncio, one after the other, in one process. Each contender
stands before the same loader: a coroutine that looks a session's newest 20 records up in a
dictionary. Ours is the public call, ``history.last(session, 20)`` at the level ``cached``, with
all that belongs to it: the checks of its arguments, a TTL, the least recently used going first by
bytes, a lock for other threads, statistics, and a tail that appends extend. async-lru is
its decorator with a size and a TTL. For aiocache and cashews a hit is the plain ``get`` of their
memory caches, which is the least that they do (their decorators are rows of their own), and a
miss is theirs to write by hand, so there is none. cachebox is its decorator. A miss is the
first touch of a session: the load, and putting it in. Both are times of the processor, of which
all of it is, so that what else runs on the machine counts little.

*Bytes* are what Python has allocated for one more session that is held, without its records,
which are the loader's: ours and async-lru's.

*validated* is the same call at the default level over SQLite, of 50 messages of 500 bytes: a
check of the version in the file, then the tail from memory. *full load* reads the same from the
file (``fresh``).

Contenders take turns in short rounds, and the ratios are of the medians of their rounds.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from asynchistory import AsyncHistoryManager, MemoryStorage, Message, SQLiteStorage, Version
from asynchistory.codec import encode_record, row_record
from asynchistory.queries import Tail
from asynchistory.records import StoredRecord
from benchmarks._contender import missing
from benchmarks._report import as_json, conditions, listing, options, table, times

OURS, ASYNC_LRU, CASHEWS, AIOCACHE = "asynchistory", "async-lru", "cashews get", "aiocache get"
SESSIONS, COUNT = 1000, 20
#: Of the decorators.
TTL = 300.0
COLUMNS = {
    "measure": "measure", "name": "contender", "microseconds": "us", "least": "least us",
    "bytes": "bytes", "note": "note",
}  # fmt: skip

Read = Callable[[str], Awaitable[Any]]
Records = dict[str, tuple[StoredRecord, ...]]


def records() -> Records:
    """Each session's newest records, made once."""
    rows = [encode_record(Message.of("user", "x" * 100)) for _ in range(COUNT)]
    return {
        f"chat-{number}": tuple(
            row_record(f"chat-{number}", seq, row) for seq, row in enumerate(rows, 1)
        )
        for number in range(SESSIONS)
    }


class Loader(MemoryStorage):
    """A store that only looks a tail up in a dictionary."""

    def __init__(self, held: Records) -> None:
        super().__init__()
        self.held = held

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        found = self.held[session_id]
        return Tail(Version(7, len(found)), found)


@asynccontextmanager
async def ours(held: Records) -> AsyncIterator[Read]:
    async with AsyncHistoryManager(Loader(held), level="cached") as history:
        yield lambda session: history.last(session, COUNT)


@asynccontextmanager
async def async_lru(held: Records) -> AsyncIterator[Read]:
    from async_lru import alru_cache

    async def load(session: str, count: int) -> Any:
        return held[session]

    cached = alru_cache(maxsize=SESSIONS, ttl=TTL)(load)
    yield lambda session: cached(session, COUNT)
    await cached.cache_close()


@asynccontextmanager
async def cachebox(held: Records) -> AsyncIterator[Read]:
    from cachebox import TTLCache, cached

    @cached(TTLCache(SESSIONS, TTL))
    async def load(session: str, count: int) -> Any:
        return held[session]

    yield lambda session: load(session, COUNT)


@asynccontextmanager
async def cashews_get(held: Records) -> AsyncIterator[Read]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", size=SESSIONS, check_interval=0)
    for session, found in held.items():
        await cache.set(session, found, expire=TTL)
    yield cache.get
    await cache.close()


@asynccontextmanager
async def cashews_decorated(held: Records) -> AsyncIterator[Read]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", size=SESSIONS, check_interval=0)

    @cache(ttl=TTL, key="last:{session}:{count}")
    async def load(session: str, count: int) -> Any:
        return held[session]

    yield lambda session: load(session, COUNT)
    await cache.close()


@asynccontextmanager
async def aiocache_get(held: Records) -> AsyncIterator[Read]:
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()
    for session, found in held.items():
        await cache.set(session, found, ttl=TTL)
    yield cache.get
    await cache.clear()
    await cache.close()


@asynccontextmanager
async def aiocache_decorated(held: Records) -> AsyncIterator[Read]:
    from aiocache import SimpleMemoryCache, cached

    @cached(ttl=TTL, cache=SimpleMemoryCache)
    async def load(session: str, count: int) -> Any:
        return held[session]

    yield lambda session: load(session, COUNT)


#: By name: how it is opened, the package that it needs, whether it loads what it has not.
CONTENDERS: dict[str, tuple[Callable[[Records], Any], str | None, bool]] = {
    OURS: (ours, None, True),
    ASYNC_LRU: (async_lru, "async_lru", True),
    "cachebox": (cachebox, "cachebox", True),
    CASHEWS: (cashews_get, "cashews", False),
    "cashews decorator": (cashews_decorated, "cashews", True),
    AIOCACHE: (aiocache_get, "aiocache", False),
    "aiocache decorator": (aiocache_decorated, "aiocache", True),
}


class Found:
    """Seconds a call by measure and contender, a figure for each round, and bytes an entry."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.bytes: dict[str, float] = {}

    def note(self, measure: str, name: str, seconds: float) -> None:
        self.seconds.setdefault((measure, name), []).append(seconds)

    def median(self, measure: str, name: str) -> float | None:
        rounds = self.seconds.get((measure, name))
        return statistics.median(rounds) if rounds else None


async def misses(read: Read, held: Records) -> float:
    """Seconds of the first touch of a session."""
    gc.collect()
    gc.disable()
    try:
        start = time.thread_time()
        for session in held:
            await read(session)
        return (time.thread_time() - start) / len(held)
    finally:
        gc.enable()


async def hits(read: Read, held: Records, calls: int) -> float:
    """Seconds of a read of what is held."""
    sessions = list(held)[:10] * (calls // 10)
    start = time.thread_time()
    for session in sessions:
        await read(session)
    return (time.thread_time() - start) / len(sessions)


async def bytes_an_entry(name: str, held: Records) -> float:
    open_cache, _, _ = CONTENDERS[name]
    async with open_cache(held) as read:
        first, *others = held
        await read(first)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for session in others:
            await read(session)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return taken / len(others)


async def in_memory(found: Found, names: list[str], rounds: int, calls: int) -> None:
    held = records()
    for _ in range(rounds):
        for name in names:
            open_cache, _, loads = CONTENDERS[name]
            async with open_cache(held) as read:
                if loads:
                    found.note("miss", name, await misses(read, held))
                if await read("chat-3") != held["chat-3"]:
                    raise AssertionError(f"{name} gives something else")
                few = calls if name in (OURS, ASYNC_LRU, "cachebox") else calls // 5
                for _ in range(3):
                    found.note("hit", name, await hits(read, held, few))
    for name in (OURS, ASYNC_LRU):
        if name in names:
            found.bytes[name] = await bytes_an_entry(name, held)


async def over_sqlite(found: Found, folder: str | None, rounds: int, reads: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        async with AsyncHistoryManager(SQLiteStorage(Path(place) / "x.db")) as history:
            sessions = [f"chat-{number}" for number in range(20)]
            for session in sessions:
                await history.append(session, *[Message.of("user", "x" * 500) for _ in range(50)])
                await history.last(session, 50)
            for _ in range(rounds):
                for measure, level in (("validated", None), ("full load", "fresh")):
                    start = time.perf_counter()
                    for number in range(reads):
                        await history.last(sessions[number % 20], 50, level=level)
                    found.note(measure, OURS, (time.perf_counter() - start) / reads)


def ratios(found: Found) -> dict[str, float]:
    pairs = {
        "hit_over_async_lru": (("hit", OURS), ("hit", ASYNC_LRU)),
        "hit_over_cashews": (("hit", OURS), ("hit", CASHEWS)),
        "hit_over_aiocache": (("hit", OURS), ("hit", AIOCACHE)),
        "miss_over_async_lru": (("miss", OURS), ("miss", ASYNC_LRU)),
        "validated_over_full_load": (("validated", OURS), ("full load", OURS)),
    }
    figures = {}
    for name, (one, other) in pairs.items():
        mine, theirs = found.median(*one), found.median(*other)
        if mine is not None and theirs is not None:
            figures[name] = mine / theirs
    if ASYNC_LRU in found.bytes:
        figures["bytes_over_async_lru"] = found.bytes[OURS] / found.bytes[ASYNC_LRU]
    return figures


def as_rows(found: Found, skipped: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "measure": measure,
            "name": name,
            "microseconds": round(statistics.median(rounds) * 1e6, 3),
            "least": round(min(rounds) * 1e6, 3),
            "rounds": len(rounds),
        }
        for (measure, name), rounds in sorted(found.seconds.items())
    ]
    rows += [
        {"measure": "bytes an entry", "name": name, "bytes": round(figure)}
        for name, figure in found.bytes.items()
    ]
    return rows + [
        {"measure": "hit", "name": name, "note": reason} for name, reason in skipped.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = options("cache", __doc__)
    parser.add_argument("--rounds", type=times, metavar="N", help="default: 15")
    parser.add_argument("--calls", type=times, metavar="N", help="hits of a round, default: 20,000")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (3 if chosen.quick else 15)
    calls = chosen.calls or (5_000 if chosen.quick else 20_000)
    skipped: dict[str, str] = {}
    for name, (_, package, _) in CONTENDERS.items():
        if package is not None:
            reason = missing(lambda package=package: importlib.import_module(package))
            if reason is not None:
                skipped[name] = reason
    names = [name for name in CONTENDERS if name not in skipped]
    start = time.perf_counter()
    found = Found()
    anyio.run(in_memory, found, names, rounds, calls)
    anyio.run(over_sqlite, found, chosen.folder, rounds, calls // 100)
    rows = as_rows(found, skipped)
    if chosen.json:
        print(as_json("cache", ratios(found), rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{listing(ratios(found))}")
    print(f"\n{conditions(chosen.folder, start)}; {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
