"""Appends a second: 100 tasks, each with a session of its own, ~500-byte messages, synced.

    python -m benchmarks.append            a table for people
    python -m benchmarks.append --json     one JSON object

Every contender writes to a new file with WAL and synchronous=FULL: an append
counts once it has returned and is durable. The rounds are interleaved, so that
what else the machine does falls on all alike. A rate is a round's appends over
its time; the table has the medians.

The *limit* is SQLite itself in one thread: the same texts over the same 100
sessions into a plain table with a unique (session, seq) index, 100 rows a
transaction, and nobody to wake.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from benchmarks._peers import PEERS, SESSIONS, TEXT, Append, Contender
from benchmarks._report import as_json, fsync_milliseconds, machine, percentile, spread, table

LIMIT = "limit"
OURS = "asynchistory"


# -- contenders that are no peers


async def ours(path: Path, run: Callable[[Append], Awaitable[None]]) -> None:
    from asynchistory import AsyncHistoryManager, Message, SQLiteStorage

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        names = [f"chat-{number}" for number in range(SESSIONS)]

        async def append(session: int) -> None:
            await history.append(names[session], Message.of("user", TEXT))

        await run(append)


def limit(path: Path, seconds: float) -> tuple[int, float]:
    """The rows that SQLite takes in one thread, and the seconds that it took."""
    import apsw

    db = apsw.Connection(str(path))
    for statement in (
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "CREATE TABLE records(rowid INTEGER PRIMARY KEY, sid INTEGER, seq INTEGER, body TEXT)",
        "CREATE UNIQUE INDEX records_seq ON records(sid, seq)",
    ):
        db.execute(statement)
    insert = "INSERT INTO records(sid, seq, body) VALUES(?, ?, ?)"
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        seq = count // SESSIONS + 1
        db.execute("BEGIN IMMEDIATE")
        db.executemany(insert, [(session, seq, TEXT) for session in range(SESSIONS)])
        db.execute("COMMIT")
        count += SESSIONS
    db.close()
    return count, taken


# -- rounds


class Result:
    """What one contender did, round by round."""

    def __init__(self, contender: Contender | None, name: str, loop: str | None) -> None:
        self.contender = contender
        self.name = name
        self.loop = loop
        self.rates: list[float] = []
        self.latencies: list[float] = []
        self.errors = 0
        self.failure: str | None = None

    def one_round(self, folder: Path, seconds: float) -> None:
        path = folder / "round.db"
        if self.contender is None:
            count, taken = limit(path, seconds)
            self.rates.append(count / taken)
        else:
            anyio.run(self._measure, path, seconds, backend=self.loop or "asyncio")

    async def _measure(self, path: Path, seconds: float) -> None:
        assert self.contender is not None
        await self.contender.work(path, lambda append: self._run(append, seconds))

    async def _run(self, append: Append, seconds: float) -> None:
        # First each session's first message: making tables and connections is not the point.
        async with anyio.create_task_group() as tasks:
            for session in range(SESSIONS):
                tasks.start_soon(self._try, append, session)
        latencies: list[float] = []
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for session in range(SESSIONS):
                tasks.start_soon(self._write, append, session, start + seconds, latencies)
        self.rates.append(len(latencies) / (time.perf_counter() - start))
        self.latencies += latencies

    async def _write(
        self, append: Append, session: int, end: float, latencies: list[float]
    ) -> None:
        before = time.perf_counter()
        while before < end:
            done = await self._try(append, session)
            now = time.perf_counter()
            if done:
                latencies.append(now - before)
            before = now

    async def _try(self, append: Append, session: int) -> bool:
        try:
            await append(session)
        except Exception:
            self.errors += 1
            return False
        return True

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def row(self) -> dict[str, Any]:
        notes = [self.contender.note] if self.contender and self.contender.note else []
        if self.errors:
            notes.append(f"{self.errors} appends failed")
        if self.failure:
            notes.append(f"skipped: {self.failure}")
        if self.contender is None:
            notes.append("apsw in one thread, 100 rows a transaction")
        done = bool(self.rates)
        timed = done and self.contender is not None
        return {
            "name": self.name,
            "loop": self.loop,
            "appends_per_second": spread(self.rates) if done else None,
            "median": round(self.median, 1) if done else None,
            "p50_ms": round(percentile(self.latencies, 0.5) * 1000, 2) if timed else None,
            "p99_ms": round(percentile(self.latencies, 0.99) * 1000, 2) if timed else None,
            "errors": self.errors,
            "product": self.contender is not None and self.contender.product,
            "synchronous": self.contender.synchronous if self.contender else "FULL",
            "note": "; ".join(notes),
        }


def contenders() -> list[Result]:
    mine = Contender(OURS, ours, "FULL", "")
    results = [Result(mine, OURS, "asyncio"), Result(mine, OURS, "trio")]
    results.append(Result(None, LIMIT, None))
    for peer in PEERS:
        result = Result(peer, peer.name, "asyncio")
        try:
            peer.check()
        except ImportError as error:
            result.failure = f"{error.name or 'a package of it'} is not installed"
        results.append(result)
    return results


def measure(rounds: int, seconds: float, folder: str | None) -> list[Result]:
    results = contenders()
    for _ in range(rounds):
        for result in results:
            if result.failure is not None:
                continue
            with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
                try:
                    result.one_round(Path(place), seconds)
                except Exception as error:
                    if result.name in (OURS, LIMIT):
                        raise
                    result.failure = f"{type(error).__name__} in a round"
    return results


def fastest_peer(results: list[Result]) -> Result | None:
    """The fastest of the products that we compare with."""
    peers = [
        result
        for result in results
        if result.rates and result.contender and result.contender.product and result.name != OURS
    ]
    return max(peers, key=lambda result: result.median, default=None)


def ratios(results: list[Result]) -> dict[str, float]:
    """Ours to the fastest peer, and to the limit."""
    rates = {(result.name, result.loop): result.median for result in results if result.rates}
    fastest = fastest_peer(results)
    found = {}
    for loop in ("asyncio", "trio"):
        if fastest is not None:
            found[f"vs_fastest_peer.{loop}"] = rates[OURS, loop] / fastest.median
    for loop in ("asyncio", "trio"):
        found[f"vs_limit.{loop}"] = rates[OURS, loop] / rates[LIMIT, None]
    return found


def summary(results: list[Result]) -> str:
    """The ratios, for people."""
    lines = [f"{name:26} {ratio:6.2f}" for name, ratio in ratios(results).items()]
    fastest = fastest_peer(results)
    if fastest is not None:
        lines.append(f"fastest peer: {fastest.name}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.append",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender and round")
    parser.add_argument("--folder", help="where the databases are made; on the disk in question")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    start = time.perf_counter()
    results = measure(options.rounds, options.seconds, options.folder)
    rows = [result.row() for result in results]
    if options.json:
        print(as_json("append", ratios(results), rows))
        return 0
    columns = {
        "name": "contender", "loop": "loop", "median": "appends/s", "p50_ms": "p50 ms",
        "p99_ms": "p99 ms", "errors": "errors", "synchronous": "synchronous", "note": "note",
    }  # fmt: skip
    print(table(rows, columns))
    print(f"\n{summary(results)}")
    disk = fsync_milliseconds(options.folder or tempfile.gettempdir())
    took = time.perf_counter() - start
    print(f"\n{machine()}; one fsync {disk} ms; {options.rounds} rounds, {took:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
