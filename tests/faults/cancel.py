"""Cancel appends and reads at every stage of their lives, in every way, many times.

A child for each loop does it (see :mod:`tests.faults.cancelled`), on one new file after another.
After each file what the callers were told is held against what is stored, and what is left over
is looked for: threads, tasks, locks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import all_pieces, append
from tests.faults.cancelled import Field
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.leftovers import (
    living_tasks,
    look_for_leftovers,
    look_for_tasks,
    store_threads,
)
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report, judge, judge_refused, new_seed
from tests.faults.stages import Stages

#: Cancellations on one file, about.
BLOCK = 5000
MakeStorage = Callable[[Path], SQLiteStorage]


async def block(
    report: Report, path: Path, backend: str, times: int, make: MakeStorage = SQLiteStorage
) -> int:
    """Cancel at least ``times`` appends and reads of one new file; how many it were."""
    tasks, threads = living_tasks(), store_threads()
    stages = Stages()
    with stages.watching():
        async with AsyncHistoryManager(make(path), level="fresh") as history:
            field = Field(history, stages, report, backend)
            field.acks.append(await append(history, "first", "first", 20))
            draw = random.Random(f"{report.seed}.{path.name}")
            number = 0
            while field.hits < times:
                number += 1
                await field.round(str(number), draw)
            field.acks.append(await append(history, "last", "last", 1))
            stored = await all_pieces(history)
    judge(report, field.acks, stored)
    judge_refused(report, field.refused, stored)
    told = field.refused | {ack.batch for ack in field.acks}
    found = {piece.batch for pieces in stored.values() for piece in pieces}
    for batch in sorted(found - told):
        report.note("ghosts", f"{batch} is stored, and nobody was told")
    look_for_leftovers(report, path, before=threads)
    await look_for_tasks(report, tasks)
    return field.hits


# -- the campaign


def child(folder: str, backend: str, seed: str, times: str) -> None:
    """Cancel ``times`` on one loop, and report after each file."""
    left = int(times)
    number = 0
    while left > 0:
        number += 1
        report = Report("cancel", min(left, BLOCK), seed=int(seed))
        path = Path(folder) / f"{backend}-{number}.db"
        left -= anyio.run(partial(block, report, path, backend, report.times), backend=backend)
        path.unlink()
        tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Cancel ``times`` on each loop."""
    report = Report("cancel", times, unit="cancellations on each loop", seed=new_seed())
    start = time.monotonic()
    with memory_folder() as folder:
        for backend in LOOPS:
            follow(report, Child("tests.faults.cancel:child", folder, backend, report.seed, times))
    report.seconds = time.monotonic() - start
    return report
