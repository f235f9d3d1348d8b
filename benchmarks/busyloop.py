"""One append at a time, while other tasks of the same loop use up the CPU.

    python -m benchmarks.busyloop            a table for people
    python -m benchmarks.busyloop --json     one JSON object
    python -m benchmarks.busyloop --quick    a few seconds

Four tasks spin: each computes for 1 ms (``--slice``) in pure Python, lets the others go, and
does it again. One more task appends a message of ~500 bytes (WAL,
synchronous=FULL), awaits it, and appends the next. A library that commits in a
thread needs the interpreter's lock there several times an append, and each time
it waits for as long as the interpreter lets a busy thread keep it.

Some libraries need tens of seconds for one append. So each contender has a
limit: when it has passed, the four tasks stop, and the append that was under way
counts as one that took at least as long as it had been waiting. ``busy`` is the
share of the time in which the four tasks had the CPU: a library that simply
blocked the loop for its commits would show there.

The rounds are interleaved; the table and the figures are over the appends of all
of them. An append that is stuck for seconds is one append: where the median is
small and the mean is not, look at the worst. Other programs that take CPU away
make it milder, as their turns let the waiting thread in.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks._contender import Append, Contender, missing
from benchmarks._ours import OURS, contenders
from benchmarks._peers import AIOSQLITE, OPENAI
from benchmarks._report import (
    as_json,
    conditions,
    listing,
    milliseconds,
    options,
    percentile,
    positive,
    table,
    times,
)

SPINNERS = 4
SLICE = 0.001
COLUMNS = {
    "name": "contender", "loop": "loop", "appends": "appends", "p50_ms": "p50 ms",
    "p99_ms": "p99 ms", "mean_ms": "mean ms", "most_ms": "most ms", "busy": "busy", "note": "note",
}  # fmt: skip


class Result:
    """What one contender's appends took on the busy loop, in seconds."""

    def __init__(self, contender: Contender, limit: float, slice_: float) -> None:
        self.contender = contender
        self.limit = limit
        self.slice = slice_
        self.failure = missing(contender.check)
        self.latencies: list[float] = []
        self.cut: list[float] = []
        self.slices = 0
        self.seconds = 0.0

    def one_round(self, folder: str | None) -> None:
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
            path = Path(place, "round.db")
            anyio.run(self.contender.work, path, 1, self._run, backend=self.contender.loop)

    async def _run(self, append: Append) -> None:
        await append(0)  # makes tables, connections and threads
        start = time.perf_counter()
        end = start + self.limit
        async with anyio.create_task_group() as tasks:
            for _ in range(SPINNERS):
                tasks.start_soon(self._spin, end)
            await self._write(append, end)
        self.seconds += min(time.perf_counter(), end) - start

    async def _spin(self, end: float) -> None:
        while (now := time.perf_counter()) < end:
            while time.perf_counter() < now + self.slice:
                pass
            self.slices += 1
            await anyio.lowlevel.checkpoint()

    async def _write(self, append: Append, end: float) -> None:
        while (before := time.perf_counter()) < end:
            await append(0)
            after = time.perf_counter()
            if after < end:
                self.latencies.append(after - before)
            else:
                self.cut.append(end - before)
            await anyio.lowlevel.checkpoint()

    @property
    def waited(self) -> list[float]:
        """The cut appends that had waited longer than any that finished; others say nothing."""
        most = max(self.latencies, default=0.0)
        return [cut for cut in self.cut if cut > most]

    def note(self) -> str:
        if self.failure is not None or not self.waited:
            return self.failure or self.contender.note
        waited = ", ".join(f"{cut:.2g} s" for cut in self.waited)
        return f"{len(self.latencies)} done in {self.seconds:.0f} s; cut off after waiting {waited}"

    def row(self) -> dict[str, Any]:
        bounds = self.latencies + self.waited
        return {
            "name": self.contender.name,
            "loop": self.contender.loop,
            "appends": len(self.latencies),
            "seconds": round(self.seconds, 1),
            "p50_ms": milliseconds(bounds, 0.5),
            "p99_ms": milliseconds(bounds, 0.99),
            "mean_ms": round(statistics.mean(bounds) * 1000, 3) if bounds else None,
            "most_ms": milliseconds(bounds, 1.0),
            "cut_ms": [round(cut * 1000, 1) for cut in self.cut],
            "busy": round(self.slices * self.slice / self.seconds, 3) if self.seconds else None,
            "product": self.contender.product,
            "note": self.note(),
        }


def measure(
    rounds: int, ours: float, peers: float, slice_: float, folder: str | None
) -> list[Result]:
    mine = [contender for contender in contenders() if contender.name == OURS]
    results = [Result(contender, ours, slice_) for contender in mine]
    results += [Result(contender, peers, slice_) for contender in (AIOSQLITE, OPENAI)]
    for _ in range(rounds):
        for result in results:
            if result.failure is None:
                gc.collect()
                result.one_round(folder)
    return results


def figures(results: list[Result]) -> dict[str, float]:
    """Ours in milliseconds; what was cut short counts as what it had waited at least."""
    found = {}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        for result in results:
            if result.contender.ours:
                value = percentile(result.latencies + result.waited, share)
                found[f"{name}.{result.contender.loop}"] = value * 1000
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = options("busyloop", __doc__)
    parser.add_argument("--rounds", type=times, metavar="N", help="default: 2")
    parser.add_argument("--slice", type=positive, metavar="S", help=f"seconds, default: {SLICE}")
    parser.add_argument("--seconds", type=positive, help="of ours, each loop and round: 15")
    parser.add_argument("--peer-seconds", type=positive, help="of each peer and round: 30")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else 2)
    ours = chosen.seconds or (2.0 if chosen.quick else 15.0)
    peers = chosen.peer_seconds or (2.0 if chosen.quick else 30.0)
    start = time.perf_counter()
    results = measure(rounds, ours, peers, chosen.slice or SLICE, chosen.folder)
    rows = [result.row() for result in results]
    if chosen.json:
        print(as_json("busyloop", figures(results), rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{listing(figures(results))}")
    print(f"\n{conditions(chosen.folder, start)}; {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
