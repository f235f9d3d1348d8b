"""Reads from a database of a million messages: a session's last 50, cached tails, statistics.

    python -m benchmarks.read            a table for people
    python -m benchmarks.read --json     one JSON object
    python -m benchmarks.read --quick    a few seconds, over a small database

The databases are built at the first run (some minutes, 2.3 GB) and kept in the
temporary folder, or in ``--folder``, until the schema changes. What they hold is
said in ``_corpus.py``. Each is read through once before anything is timed, so that
the operating system has all of them in memory.

*The last 50 messages* of a session of chance, one read at a time. Ours reads
from the store (level ``fresh``), turns rows into records and checks their
checksums. OpenAI's sessions read with ``get_items(limit=50)``; each object was made
before its time is taken, and connects when it first reads. Further rows are of
objects that have just read the same session: ``store_vs_connected_peer`` holds ours,
which has not, against the faster of those. The plain loops read the same JSON from a
plain table and decode it. Before anything is timed it is made sure that all of
them read the same messages.

*A cached tail*: the same 50 records at the default level, ``validated``, which
asks the store whether the tail is current, over reading them from the store.

*Statistics*: ``get_token_statistics`` by day and by model, over the time in which
SQLite scans the same table of calls and sums the same numbers, in one thread and
without a library. The ratio is that of the slower of the two.

The rounds are interleaved; each takes other sessions, the same for everyone.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from asynchistory import AsyncHistoryManager, SQLiteStorage
from benchmarks._contender import missing
from benchmarks._databases import Corpus, warm
from benchmarks._ours import LOOPS, OURS
from benchmarks._readers import COUNT, READERS, Reader, texts
from benchmarks._report import as_json, conditions, listing, milliseconds, options, table, times
from benchmarks._statistics import GROUPINGS, SCAN, one_round

LAST, STATISTICS = f"last {COUNT}", "statistics"
FRESH, VALIDATED = "tail from the store", "tail from the cache"
COLUMNS = {
    "measure": "measure", "name": "contender", "loop": "loop", "p50_ms": "p50 ms",
    "p99_ms": "p99 ms", "cpu_ms": "cpu ms", "times": "times", "note": "note",
}  # fmt: skip


class Times:
    """Measure, contender and loop to the seconds that each took, by the clock and of CPU."""

    def __init__(self) -> None:
        self.wall: dict[tuple[str, str, str | None], list[float]] = {}
        self.cpu: dict[tuple[str, str, str | None], list[float]] = {}

    def note(self, measure: str, name: str, loop: str | None, seconds: float) -> None:
        self.wall.setdefault((measure, name, loop), []).append(seconds)

    async def time(
        self, measure: str, name: str, loop: str, read: Callable[[], Awaitable[Sequence[Any]]]
    ) -> None:
        """Time one read of 50. The CPU is that of all threads: it shows what waiting hides."""
        cpu, start = time.process_time(), time.perf_counter()
        found = await read()
        taken = time.perf_counter() - start
        self.note(measure, name, loop, taken)
        self.cpu.setdefault((measure, name, loop), []).append(time.process_time() - cpu)
        if len(found) != COUNT:
            raise AssertionError(f"{name} read {len(found)} messages")


async def last_messages(reader: Reader, path: Path, sessions: Iterable[int], found: Times) -> None:
    async with reader.open(path) as session:
        async with session(0) as read:
            await read()
        for number in sessions:
            async with session(number) as read:
                await found.time(LAST, reader.name, reader.loop, read)


async def tails(path: Path, sessions: Iterable[int], found: Times, loop: str) -> None:
    """Each session's tail from the store, then twice from the cache."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for number in sessions:
            session = f"chat-{number}"
            await found.time(
                FRESH, OURS, loop, partial(history.last, session, COUNT, level="fresh")
            )
            await history.last(session, COUNT)
            for _ in range(2):
                await found.time(VALIDATED, OURS, loop, partial(history.last, session, COUNT))


async def text_of(reader: Reader, path: Path, number: int) -> list[str]:
    async with reader.open(path) as opened, opened(number) as read:
        return texts(await read())


def check_same(readers: list[Reader], corpus: Corpus) -> None:
    """Whoever reads something else is not compared."""
    found = {
        tuple(anyio.run(text_of, reader, reader.database(corpus), 3, backend=reader.loop))
        for reader in readers
    }
    if len(found) != 1 or len(found.pop()) != COUNT:
        raise AssertionError("the contenders did not read the same messages")


def measure(corpus: Corpus, readers: list[Reader], rounds: int, reads: int) -> Times:
    check_same(readers, corpus)
    found = Times()
    for number in range(rounds):
        chosen = random.Random(number).choices(range(corpus.sessions), k=reads)
        first = number % len(readers)
        for reader in readers[first:] + readers[:first]:
            gc.collect()
            path = reader.database(corpus)
            anyio.run(last_messages, reader, path, chosen, found, backend=reader.loop)
        for loop in LOOPS:
            anyio.run(tails, corpus.ours(), chosen[: reads // 2], found, loop, backend=loop)
        for timing in one_round(corpus.ours(), repetitions=1):
            found.note(STATISTICS, *timing[:3])
    return found


def ratios(found: Times) -> dict[str, float]:
    """Ours over the fastest product, over the store, and over a scan; the plain key is asyncio."""
    p50 = {key: statistics.median(taken) for key, taken in found.wall.items()}
    names = [reader.name for reader in READERS if reader.product]
    last = {name: p50.get((LAST, name, "asyncio")) for name in names}
    fastest = min((taken for taken in last.values() if taken is not None), default=None)
    warm = [p50[key] for key in p50 if key[0] == LAST and key[1].endswith(", connected")]
    ratios: dict[str, float] = {}
    for loop in LOOPS:
        ours = p50[LAST, OURS, loop]
        if fastest is not None:
            ratios[f"store_vs_fastest_peer.{loop}"] = ours / fastest
            ratios[f"store_vs_connected_peer.{loop}"] = ours / min(warm)
        ratios[f"store_over_raw.{loop}"] = ours / p50[LAST, "raw", "asyncio"]
        tail = p50[VALIDATED, OURS, loop] / p50[FRESH, OURS, loop]
        ratios[f"validated_over_full_load.{loop}"] = tail
        slower = max(p50[STATISTICS, f"statistics by {group}", loop] for group in GROUPINGS)
        ratios[f"stats_over_scan.{loop}"] = slower / p50[STATISTICS, SCAN, None]
    plain = {
        name.removesuffix(".asyncio"): ratio
        for name, ratio in ratios.items()
        if name.endswith(".asyncio")
    }
    return plain | ratios


def as_rows(found: Times, skipped: dict[str, str], messages: int) -> list[dict[str, Any]]:
    notes = {reader.name: reader.note for reader in READERS}
    products = {reader.name for reader in READERS if reader.product}
    rows: list[dict[str, Any]] = []
    for key, taken in sorted(found.wall.items(), key=lambda item: item[0][0]):
        measure, name, loop = key
        rows.append(
            {
                "measure": measure,
                "name": name,
                "loop": loop,
                "p50_ms": milliseconds(taken, 0.5),
                "p99_ms": milliseconds(taken, 0.99),
                "cpu_ms": milliseconds(found.cpu.get(key, ()), 0.5),
                "times": len(taken),
                "messages": messages,
                "product": name in products,
                "note": notes.get(name, "") if measure == LAST else "",
            }
        )
    return rows + [
        {"measure": LAST, "name": name, "loop": None, "times": 0, "note": reason}
        for name, reason in skipped.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = options("read", __doc__)
    parser.add_argument("--rounds", type=times, metavar="N", help="default: 10")
    parser.add_argument("--reads", type=times, metavar="N", help="of each round, default: 100")
    parser.add_argument("--messages", type=times, metavar="N", help="default: 1,000,000")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (2 if chosen.quick else 10)
    reads = chosen.reads or (50 if chosen.quick else 100)
    corpus = Corpus(chosen.messages or (20_000 if chosen.quick else 1_000_000), chosen.folder)
    reasons = {reader.name: missing(reader.check) for reader in READERS}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    readers = [reader for reader in READERS if reader.name not in skipped]
    for path in {reader.database(corpus) for reader in readers}:
        warm(path)
    start = time.perf_counter()
    found = measure(corpus, readers, rounds, reads)
    rows = as_rows(found, skipped, corpus.messages)
    if chosen.json:
        print(as_json("read", ratios(found), rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{listing(ratios(found))}")
    print(f"\n{conditions(chosen.folder, start)}; {rounds} rounds, {corpus.messages:,} messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
