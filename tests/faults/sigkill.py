"""Kill a writing process at a random moment, over and over, on one database.

A child appends batches from several tasks to several sessions. After each
append has returned it says so on a pipe. It is killed once a random number of
acknowledgements was seen, sometimes while it still opens the database. Then
the database is opened, which recovers it, and held against what was said.
"""

from __future__ import annotations

import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio

from asynchistory import (
    AsyncHistoryError,
    AsyncHistoryManager,
    HistoryQuery,
    Message,
    SQLiteStorage,
)
from tests.faults.report import Ack, Piece, Report, judge

ROOT = Path(__file__).resolve().parents[2]
LOOPS = ("asyncio", "trio")
SESSIONS = 5
TASKS = 8
#: A child that says nothing for so long hangs.
PATIENCE = 60.0


# -- the child


def child(path: str, backend: str, name: str) -> NoReturn:
    """Write until killed. Waits for a line first, so that it can be started ahead of its turn."""
    if not sys.stdin.readline():
        sys.exit(0)
    anyio.run(partial(_write, path, name), backend=backend)
    raise AssertionError("it ended by itself")


async def _write(path: str, name: str) -> None:
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        _say("open")
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
        filling = "x" * draw.randrange(2000)
        records = [
            Message.of("user", filling, metadata={"batch": batch, "index": index, "size": size})
            for index in range(size)
        ]
        key = batch if draw.random() < 0.5 else None
        appended = await history.append(session_id, *records, idempotency_key=key)
        _say(f"{session_id} {batch} {size} {appended.first_seq}")


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


# -- the killer


class Child:
    """A child, and what it said."""

    def __init__(self, path: Path, backend: str, name: str) -> None:
        program = "import sys; from tests.faults.sigkill import child; child(*sys.argv[1:])"
        search = [str(ROOT), *sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(path), backend, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
        )
        self._said = b""

    def go(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it said last tells why
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()

    def listen(self, lines: int) -> bool:
        """Wait until it has said so many lines. False if it hangs or ended before."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while self._said.count(b"\n") < lines:
                if not selector.select(PATIENCE):
                    return False
                said = os.read(descriptor, 65536)
                if not said:
                    return False
                self._said += said
        return True

    def kill(self) -> tuple[list[Ack], int, str]:
        """Kill it: all that it said, how it ended, and its complaints."""
        self.process.kill()
        said, complaints = self.process.communicate()
        # A line that the kill cut off was not said.
        lines = (self._said + said).decode().split("\n")[:-1]
        acks = [_parse(line) for line in lines if line != "open"]
        return acks, self.process.returncode, complaints.decode(errors="replace").strip()


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
    acks, code, complaints = child.kill()
    if not well or code != -9:
        last = complaints.splitlines()[-1:] or ["it hangs, or said nothing"]
        report.note("errors", f"the child ended with {code}: {last[0]}")
    return acks


# -- the judgement


def _piece(record: object) -> Piece:
    if not isinstance(record, Message):
        raise ValueError(f"a {type(record).__name__} was read")
    said = record.metadata
    return Piece(record.seq, said["batch"], said["index"], said["size"])


async def contents(path: Path, start: dict[str, int]) -> dict[str, list[Piece]]:
    """The records of every session, from its ``start`` on."""
    stored: dict[str, list[Piece]] = {}
    async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
        for session in await history.list_sessions():
            query = HistoryQuery(session.id, limit=10_000, offset=start.get(session.id, 0))
            stored[session.id] = []
            while True:
                page = await history.query_history(query)
                stored[session.id] += map(_piece, page)
                if page.next is None:
                    break
                query = HistoryQuery(session.id, limit=10_000, after=page.next)
            if session.seq != start.get(session.id, 0) + len(stored[session.id]):
                raise ValueError(f"{session.id} stands at {session.seq}, other than its records")
    return stored


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
    report = Report("sigkill", times, LOOPS)
    start = time.monotonic()
    seed = random.SystemRandom().randrange(2**32)
    with tempfile.TemporaryDirectory() as folder:
        for backend in LOOPS:
            bench = Bench(report, Path(folder), backend)
            run_loop(report, bench, random.Random(f"{seed}.{backend}"))
    report.seconds = time.monotonic() - start
    return report
