"""Synchronous calls by the hundred thousand: what they leave behind.

Threads, descriptors and memory are to be as before, and a call that fails leaves nothing that only
the garbage collector could find.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio.lowlevel

from asynchistory import SessionNotFoundError
from asynchistory_compat import HistoryManager, configure, safe_async_call
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.leftovers import open_files
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report

#: Calls of one round, a tenth as many of which fail, from this many threads.
CALLS, THREADS = 10_000, 4
#: Bytes that the process may be larger at the end.
MOST_BYTES = 1024 * 1024
#: Objects in cycles that all failing calls together may leave.
MOST_GARBAGE = 100


async def work(number: int) -> int:
    await anyio.lowlevel.checkpoint()
    return number


def succeed(report: Report, history: HistoryManager, calls: int) -> None:
    """Calls that return, half of them reads of the store."""
    for number in range(calls // 2):
        if safe_async_call(work(number)) != number or history.count().sessions != 1:
            report.note("errors", f"call {number} has another outcome")
        report.acknowledged += 2


def fail(report: Report, history: HistoryManager, calls: int) -> None:
    """Calls that raise."""
    for _ in range(calls):
        try:
            history.get_session("missing")
        except SessionNotFoundError:
            report.counts["failing calls"] += 1
        else:
            report.note("errors", "a session that is not there was found")


def one_round(report: Report, history: HistoryManager) -> int:
    """The objects in cycles that the failing calls left."""
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(succeed, report, history, CALLS // THREADS) for _ in range(THREADS)]
        for job in jobs:
            job.result()
    gc.collect()
    gc.disable()
    fail(report, history, CALLS // 10)
    garbage = gc.collect()
    gc.enable()
    return garbage


def resident() -> int:
    """Bytes of memory that this process has; 0 where that cannot be told."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def rounds(report: Report, history: HistoryManager, backend: str, times: int) -> None:
    """Look at what ``times`` rounds leave, after one that warms up."""
    one_round(Report("bridge", 1), history)
    before = threading.active_count(), open_files(), resident()
    garbage = 0
    for number in range(times):
        garbage += one_round(report, history)
        say(f"{backend}, round {number}")  # or it would be taken to hang
    after = threading.active_count(), open_files(), resident()
    threads, files, size = (now - then for now, then in zip(after, before, strict=True))
    for name, count, most in (
        ("threads left over", threads, 0),
        ("descriptors left over", files, 0),
        ("bytes more", size, MOST_BYTES),
        ("objects in cycles", garbage, MOST_GARBAGE),
    ):
        report.peaks[f"{backend}: {name}"] = count
        if count > most:
            report.note("stranded", f"{backend}: {name}: {count}, and may be {most}")


def child(folder: str, backend: str, times: str) -> None:
    """All rounds on one backend."""
    configure(backend=backend)  # type: ignore[arg-type]
    report = Report("bridge", int(times))
    with HistoryManager(Path(folder) / f"{backend}.db") as history:
        history.create_session("chat")
        rounds(report, history, backend, int(times))
    tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Make ``times`` rounds of calls on each backend."""
    unit = f"rounds of {CALLS} calls and {CALLS // 10} failing ones on each loop"
    report = Report("bridge", times, unit=unit)
    start = time.monotonic()
    with memory_folder() as folder:
        for backend in LOOPS:
            follow(report, Child("tests.faults.bridge:child", folder, backend, times))
    report.seconds = time.monotonic() - start
    return report
