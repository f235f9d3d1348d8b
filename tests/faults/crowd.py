"""Ten thousand tasks at once, each with a session of its own: what they cost in files and threads.

A store's descriptors and threads are those of its file, however many sessions and tasks use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from tests.faults.batches import append, piece_of
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.leftovers import (
    living_tasks,
    look_for_leftovers,
    look_for_tasks,
    open_files,
    store_threads,
)
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Ack, Piece, Report

TASKS = 10_000
#: The writer and four readers.
MOST_THREADS = 5
#: A file and its log for each thread's connection and the caller's own, and the shared memory.
MOST_FILES = 2 * (MOST_THREADS + 1) + 1
MakeStorage = Callable[[Path], SQLiteStorage]


class Crowd:
    """Tasks that all wait for one another, then append and read."""

    def __init__(self, report: Report, history: AsyncHistoryManager, size: int) -> None:
        self.report = report
        self.history = history
        self.size = size
        self.gate = anyio.Event()
        self.here = self.threads = self.files = self.tasks = 0

    async def gather(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(self.size):
                tasks.start_soon(self._visit, number)

    async def _visit(self, number: int) -> None:
        self.here += 1
        if self.here == self.size:
            # Its own alone: a busy loop may have one of the library's, which looks after its waits.
            living = anyio.get_running_tasks()
            self.tasks = sum(str(task.name).endswith("Crowd._visit") for task in living)
            self.gate.set()
        await self.gate.wait()
        try:
            await self._use(f"session-{number}", f"batch-{number}")
        except Exception as error:
            self.report.note("errors", f"{type(error).__name__}: {error}")
        if number % 100 == 0:
            self.look()

    async def _use(self, session_id: str, batch: str) -> None:
        ack = await append(self.history, session_id, batch, 1)
        self.report.acknowledged += 1
        if ack.first_seq % 100 == 0:
            self.look()
        pieces = [piece_of(record) for record in await self.history.last(session_id)]
        if pieces != [Piece(1, batch, 0, 1)] or ack != Ack(session_id, batch, 1, 1):
            self.report.note("lost", f"{ack}, and {pieces} was read")
        self.report.stored += 1

    def look(self) -> None:
        """Count while they are at it."""
        self.threads = max(self.threads, len(store_threads()))
        self.files = max(self.files, open_files())


async def gather(
    report: Report, path: Path, backend: str, size: int = TASKS, make: MakeStorage = SQLiteStorage
) -> None:
    """Let a crowd use a new file, and hold what it took against what it may take."""
    files, tasks, threads = open_files(), living_tasks(), store_threads()
    async with AsyncHistoryManager(make(path)) as history:
        await history.append("first", Message.of("user", "x"))
        crowd = Crowd(report, history, size)
        await crowd.gather()
    look_for_leftovers(report, path, before=threads)
    await look_for_tasks(report, tasks)
    report.peaks[f"{backend}: tasks at once"] = crowd.tasks
    taken = {
        "threads at most": (crowd.threads - len(threads), MOST_THREADS),
        "descriptors at most": (crowd.files - files, MOST_FILES),
        "descriptors left over": (open_files() - files, 0),
    }
    for name, (count, most) in taken.items():
        report.peaks[f"{backend}: {name}"] = count
        if count > most:
            report.note("stranded", f"{name}: {count}, and may be {most}")


# -- the campaign


def child(folder: str, backend: str, times: str) -> None:
    """Gather crowds on one loop, and report each."""
    for number in range(int(times)):
        report = Report("crowd", 1)
        path = Path(folder) / f"{backend}-{number}.db"
        anyio.run(partial(gather, report, path, backend), backend=backend)
        path.unlink()
        tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Gather ``times`` crowds on each loop."""
    report = Report("crowd", times, unit=f"crowds of {TASKS} tasks on each loop")
    start = time.monotonic()
    with memory_folder() as folder:
        for backend in LOOPS:
            follow(report, Child("tests.faults.crowd:child", folder, backend, times))
    report.seconds = time.monotonic() - start
    return report
