"""Rounds of appends: a hundred tasks at once, and one task alone."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks._contender import SESSIONS, Append, Contender, missing
from benchmarks._raw import commits, groups
from benchmarks._report import milliseconds, spread


class Result:
    """What one contender did, round by round."""

    def __init__(self, name: str, note: str = "") -> None:
        self.name = name
        self.note = note
        self.loop: str | None = None
        self.product = False
        self.failure: str | None = None
        self.errors = 0
        #: Appends a second of each round of a hundred tasks, and what each append took.
        self.rates: list[float] = []
        self.latencies: list[float] = []
        #: The median append of each round of one task, and what each append took.
        self.alone: list[float] = []
        self.alone_latencies: list[float] = []

    def crowd(self, folder: Path, seconds: float) -> None:
        """A round of a hundred tasks, each with a session of its own."""

    def single(self, folder: Path, seconds: float) -> None:
        """A round of one task with one session."""

    def took(self, latencies: list[float]) -> None:
        """Note a round of one task."""
        if latencies:
            self.alone.append(statistics.median(latencies))
            self.alone_latencies += latencies

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def latency(self) -> float:
        return statistics.median(self.alone)

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "loop": self.loop,
            "appends_per_second": spread(self.rates) if self.rates else None,
            "median": round(self.rate, 1) if self.rates else None,
            "p50_ms": milliseconds(self.latencies, 0.5),
            "p99_ms": milliseconds(self.latencies, 0.99),
            "alone_p50_ms": round(self.latency * 1000, 3) if self.alone else None,
            "alone_p99_ms": milliseconds(self.alone_latencies, 0.99),
            "errors": self.errors,
            "product": self.product,
            "synchronous": "FULL",
            "note": self.failure or self.note,
        }


class Groups(Result):
    """The limit of throughput."""

    def crowd(self, folder: Path, seconds: float) -> None:
        count, taken = groups(folder / "round.db", seconds)
        self.rates.append(count / taken)


class Commits(Result):
    """The floor of latency."""

    def single(self, folder: Path, seconds: float) -> None:
        self.took(commits(folder / "round.db", seconds))


class Library(Result):
    """A library, ours or another, on an event loop."""

    def __init__(self, contender: Contender) -> None:
        super().__init__(contender.name, contender.note)
        self.contender = contender
        self.loop = contender.loop
        self.product = contender.product
        self.failure = missing(contender.check)

    def crowd(self, folder: Path, seconds: float) -> None:
        self._measure(folder, SESSIONS, seconds)

    def single(self, folder: Path, seconds: float) -> None:
        self._measure(folder, 1, seconds)

    def _measure(self, folder: Path, sessions: int, seconds: float) -> None:
        async def work() -> None:
            await self.contender.work(
                folder / "round.db", sessions, lambda append: self._run(append, sessions, seconds)
            )

        anyio.run(work, backend=self.loop or "asyncio")

    async def _run(self, append: Append, sessions: int, seconds: float) -> None:
        # First each session's first message: making tables and connections is not the point.
        async with anyio.create_task_group() as tasks:
            for session in range(sessions):
                tasks.start_soon(self._try, append, session)
        latencies: list[float] = []
        start = time.perf_counter()
        if sessions == 1:
            await self._write(append, 0, start + seconds, latencies)
            self.took(latencies)
            return
        async with anyio.create_task_group() as tasks:
            for session in range(sessions):
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
