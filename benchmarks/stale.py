"""Stale reads: the same script of random interleavings over this cache and over others.

    python -m benchmarks.stale            a table for people
    python -m benchmarks.stale --json     one JSON object
    python -m benchmarks.stale --quick    a few seconds

Sessions in a store in memory that takes its time, at random, before and after it does its work. One
task appends, truncates, replaces, deletes and makes the session again; three read. A read is stale
if it misses a write that had returned before it began. The script is that of the campaign
``dev.py faults stale``, in one process, on asyncio.

The others are used as their documentation shows it: a read asks the cache, loads what is not there
from the store and sets it; a write goes to the store and then deletes the key. Where a library has
a decorator that loads but once, it is a row of its own.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from asynchistory import AsyncHistoryManager
from benchmarks._contender import missing
from benchmarks._report import as_json, conditions, options, table, times
from tests.faults.floors import perform
from tests.faults.report import Report
from tests.faults.stale import Interleaving, Side, SlowStorage
from tests.redis.server import RedisServer, program

OURS = "asynchistory"
COLUMNS = {
    "name": "contender", "reads": "reads", "stale": "stale", "wrong": "wrong", "loads": "loads",
    "note": "note",
}  # fmt: skip
Step = dict[str, Any]


class Aside:
    """A store with somebody else's cache before it, as documentation has it."""

    def __init__(self, history: AsyncHistoryManager) -> None:
        self.history = history
        self.loads = 0

    async def load(self, session: str) -> Step:
        self.loads += 1
        return await perform(self.history, {"do": "read", "session": session, "level": "fresh"})

    def side(self, read: Callable[[str], Any], forget: Callable[[str], Any]) -> Side:
        async def do(step: Step) -> Step:
            if step["do"] == "read":
                found: Step = await read(step["session"])
                return found
            done = await perform(self.history, step)
            await forget(step["session"])
            return done

        return do


@asynccontextmanager
async def ours(aside: Aside) -> AsyncIterator[Side]:
    async def do(step: Step) -> Step:
        return await perform(aside.history, step)

    yield do
    aside.loads = aside.history.get_cache_stats().loads


@asynccontextmanager
async def aiocache(aside: Aside) -> AsyncIterator[Side]:
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()
    yield by_hand(aside, cache.get, cache.set, cache.delete)
    await cache.clear()
    await cache.close()


@asynccontextmanager
async def aiocache_stampede(aside: Aside) -> AsyncIterator[Side]:
    from aiocache import SimpleMemoryCache, cached_stampede

    @cached_stampede(cache=SimpleMemoryCache, key_builder=lambda _f, session: session)
    async def read(session: str) -> Step:
        return await aside.load(session)

    yield aside.side(read, read.cache.delete)
    await read.cache.clear()


@asynccontextmanager
async def cashews(aside: Aside) -> AsyncIterator[Side]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", size=100_000, check_interval=0)

    @cache(ttl=300, key="{session}", protected=True)
    async def read(session: str) -> Step:
        return await aside.load(session)

    yield aside.side(read, cache.delete)
    await cache.close()


@asynccontextmanager
async def cachebox(aside: Aside) -> AsyncIterator[Side]:
    from cachebox import LRUCache, cached

    cache: Any = LRUCache(100_000)

    @cached(cache, key_maker=lambda session: session)
    async def read(session: str) -> Step:
        return await aside.load(session)

    async def forget(session: str) -> None:
        cache.pop(session, None)

    yield aside.side(read, forget)


@asynccontextmanager
async def redis(aside: Aside) -> AsyncIterator[Side]:
    from coredis import Redis

    with RedisServer() as server:
        async with Redis(port=server.port) as client:

            async def get(key: str) -> Any:
                found = await client.get(key)
                return None if found is None else msgspec.json.decode(found)

            async def put(key: str, value: Any) -> None:
                await client.set(key, msgspec.json.encode(value))

            async def forget(key: str) -> None:
                await client.delete([key])

            yield by_hand(aside, get, put, forget)


def by_hand(
    aside: Aside,
    get: Callable[[str], Any],
    put: Callable[[str, Any], Any],
    forget: Callable[[str], Any],
) -> Side:
    async def read(session: str) -> Step:
        found = await get(session)
        if found is None:
            found = await aside.load(session)
            await put(session, found)
        return dict(found)

    return aside.side(read, forget)


#: By name: how it is made, and the package that it needs.
CONTENDERS: dict[str, tuple[Callable[[Aside], Any], str | None]] = {
    OURS: (ours, None),
    "aiocache get/set": (aiocache, "aiocache"),
    "aiocache cached_stampede": (aiocache_stampede, "aiocache"),
    "cashews decorator": (cashews, "cashews"),
    "cachebox decorator": (cachebox, "cachebox"),
    "Redis GET/SET/DEL": (redis, "coredis"),
}


async def run(name: str, count: int) -> dict[str, Any]:
    """One contender's row."""
    report = Report("stale", count, seed=1)
    draw = random.Random(1)
    async with AsyncHistoryManager(SlowStorage(draw)) as history:
        aside = Aside(history)
        async with CONTENDERS[name][0](aside) as side:
            for number in range(count):
                levels = ("validated", "cached")
                await Interleaving(report, [side], f"chat-{number}", draw, levels).run()
    return {
        "name": name,
        "reads": report.counts["reads"],
        "stale": report.stale,
        "wrong": report.wrong,
        "loads": aside.loads,
    }


def reason(name: str) -> str | None:
    """Why a contender cannot take part, None if it can."""
    package = CONTENDERS[name][1]
    if name.startswith("Redis") and program() is None:
        return "skipped: there is no redis-server"
    return package and missing(lambda: importlib.import_module(package))


def main(arguments: list[str] | None = None) -> int:
    parser = options("stale", __doc__)
    parser.add_argument("--times", type=times, metavar="N", help="interleavings, default: 2,000")
    chosen = parser.parse_args(arguments)
    count = chosen.times or (100 if chosen.quick else 2_000)
    start = time.perf_counter()
    rows = []
    for name in CONTENDERS:
        why = reason(name)
        rows.append({"name": name, "note": why} if why else anyio.run(run, name, count))
    if chosen.json:
        print(as_json("stale", {"stale_reads": float(rows[0]["stale"])}, rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{conditions(chosen.folder, start)}; {count} interleavings each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
