"""Kill a writing process at a random moment, over and over, on one database.

A child appends batches from several tasks to several sessions. After each
append has returned it says so on a pipe. It is killed once a random number of
acknowledgements was seen, sometimes while it still opens the database. Then
the database is opened, which recovers it, and held against what was said.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict, deque
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio

from asynchistory import AsyncHistoryError, AsyncHistoryManager, SQLiteStorage
from tests.faults import children
from tests.faults.batches import append, contents
from tests.faults.children import say, wait_for_go
from tests.faults.report import LOOPS, Ack, Piece, Report, judge, new_seed

SESSIONS = 5
TASKS = 8


# -- the child


def child(path: str, backend: str, name: str) -> NoReturn:
    """Write until killed."""
    wait_for_go()
    anyio.run(partial(_write, path, name), backend=backend)
    raise AssertionError("it ended by itself")


async def _write(path: str, name: str) -> None:
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        say("open")
        async with anyio.create_task_group() as tasks:
            for task in range(TASKS):
                tasks.start_soon(_write_batches, history, f"{name}.{task}")


async def _write_batches(history: AsyncHistoryManager, name: str) -> None:
    draw = random.Random(name)
    number = 0
    while True:
        number += 1
        session_id = f"session-{draw.randrange(SESSIONS)}"
        batch, size = f"{name}.{number}", draw.randint(1, 5)
        key = batch if draw.random() < 0.5 else None
        filling = "x" * draw.randrange(2000)
        ack = await append(history, session_id, batch, size, filling, key=key)
        say(" ".join(map(str, ack)))


# -- the killer


class Child(children.Child):
    """A child, and what it acknowledged."""

    def __init__(self, path: Path, backend: str, name: str) -> None:
        super().__init__("tests.faults.sigkill:child", path, backend, name)

    @property
    def acks(self) -> list[Ack]:
        return [_parse(line) for line in self.lines if line != "open"]


def _parse(line: str) -> Ack:
    session_id, batch, size, first_seq = line.split()
    return Ack(session_id, batch, int(size), int(first_seq))


def _spin(seconds: float) -> None:
    # Not a sleep, which would wake up at the same few moments of a commit.
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def kill_one(report: Report, child: Child, draw: random.Random) -> list[Ack]:
    """One round: what was acknowledged before the kill."""
    lines = draw.choice([0, 1, 1 + draw.randrange(1, 10), 1 + draw.randrange(1, 200)])
    child.go()
    well = child.listen(lines)
    _spin(draw.random() * (0.1 if lines == 0 else 0.003))
    code, complaints = child.kill()
    if not well or code != -9:
        last = complaints.splitlines()[-1:] or ["it hangs, or said nothing"]
        report.note("errors", f"the child ended with {code}: {last[0]}")
    return child.acks


# -- the judgement


class Bench:
    """One database over all rounds of a loop."""

    def __init__(self, report: Report, folder: Path, backend: str) -> None:
        self.report = report
        self.path = folder / f"{backend}.db"
        self.backend = backend
        self.checked: dict[str, int] = defaultdict(int)
        self.acks: list[Ack] = []

    def check(self, acks: list[Ack]) -> None:
        """Judge what is new. What was read once must be there at the end, too."""
        self.acks += acks
        stored = self._read(self.checked)
        if stored is None:
            return
        by_session = defaultdict(list)
        for ack in acks:
            by_session[ack.session_id].append(ack)
        for session_id in {*stored, *by_session}:
            start = self.checked[session_id]
            pieces = stored.get(session_id, [])
            judge(self.report, by_session[session_id], {session_id: pieces}, start + 1)
            self.checked[session_id] = start + len(pieces)

    def check_all(self) -> None:
        stored = self._read({})
        if stored is None:
            return
        whole = Report(self.report.campaign, self.report.times)
        judge(whole, self.acks, stored)
        for message in whole.messages:
            self.report.note(message.partition(":")[0], f"at the end, {message}")
        for session_id, length in self.checked.items():
            if len(stored.get(session_id, ())) < length:
                self.report.note("lost", f"{session_id} was longer before")

    def _read(self, start: dict[str, int]) -> dict[str, list[Piece]] | None:
        try:
            return anyio.run(contents, self.path, start, backend=self.backend)
        except AsyncHistoryError as error:
            self.report.note("unopenable", f"{type(error).__name__}: {error}")
        except Exception as error:
            self.report.note("errors", f"{type(error).__name__}: {error}")
        return None


def run_loop(report: Report, bench: Bench, draw: random.Random) -> None:
    # Two ahead, so that interpreters start while others write.
    ahead: deque[Child] = deque()
    started = 0
    try:
        for _ in range(report.times):
            while started < report.times and len(ahead) < 3:
                ahead.append(Child(bench.path, bench.backend, f"{bench.backend}.{started}"))
                started += 1
            bench.check(kill_one(report, ahead.popleft(), draw))
        bench.check_all()
    finally:
        for child in ahead:
            child.kill()


def campaign(times: int) -> Report:
    """Kill ``times`` children on each loop."""
    report = Report("sigkill", times, seed=new_seed())
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for backend in LOOPS:
            bench = Bench(report, Path(folder), backend)
            run_loop(report, bench, random.Random(f"{report.seed}.{backend}"))
    report.seconds = time.monotonic() - start
    return report
