"""Twelve processes open and write one and the same new file at the same moment, many times.

A host that has imported everything forks them, so that each is a process of its own without the
half second that an interpreter takes to start. They all wait at a gate, a pipe that the host then
closes. One half of them runs asyncio, the other trio.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import append, check_integrity, contents
from tests.faults.children import Child, say
from tests.faults.report import LOOPS, Ack, Piece, Report, judge

PROCESSES = 12
BATCHES = 4
#: The session that all of them write to; each has one of its own besides.
COMMON = "common"


# -- the writers


async def write(path: Path, number: int) -> list[Ack]:
    """What one process does: open, and append to the common session and to its own."""
    acks: list[Ack] = []
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for batch in range(BATCHES):
            size = 1 + (number + batch) % 3
            for session_id in (COMMON, f"own-{number}"):
                name = f"{number}.{batch}"
                acks.append(await append(history, session_id, name, size, "x" * 300, key=name))
    return acks


def race(works: Iterable[Callable[[], Any]]) -> list[dict[str, Any]]:
    """Fork a process for each piece of work, open the gate, and hear what they say."""
    gate, lever = os.pipe()
    pipes = [_fork(work, gate, lever) for work in works]
    os.close(gate)
    os.close(lever)
    said = []
    for pipe in pipes:
        with os.fdopen(pipe) as file:
            text = file.read()
        said.append(json.loads(text) if text else {"error": "it died without a word"})
    for _ in pipes:
        os.wait()
    return said


def _fork(work: Callable[[], Any], gate: int, lever: int) -> int:
    """A process that waits at the gate and then works; the end of a pipe with what it says."""
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        return ours
    try:
        os.close(lever)
        os.read(gate, 1)  # which ends when the last one who holds the lever lets go of it
        said = {"acks": work()}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    with os.fdopen(theirs, "w") as file:
        json.dump(said, file)
    os._exit(0)


def host(folder: str, times: str) -> None:
    """Race on one new file after another, and say what each process said."""
    for backend in LOOPS:
        anyio.run(anyio.lowlevel.checkpoint, backend=backend)  # imported before the fork
    for number in range(int(times)):
        path = Path(folder) / f"{number}.db"
        works = [
            partial(anyio.run, write, path, one, backend=LOOPS[one % len(LOOPS)])
            for one in range(PROCESSES)
        ]
        say(json.dumps(race(works)))


# -- the judgement


def judge_race(report: Report, path: Path, said: Sequence[dict[str, Any]], backend: str) -> None:
    """Hold the file against what its writers say."""
    acks = [Ack(*ack) for one in said for ack in one.get("acks", ())]
    for one in said:
        if "error" in one:
            report.note("errors", one["error"])
    try:
        stored = anyio.run(contents, path, backend=backend)
    except Exception as error:
        report.note("unopenable", f"{type(error).__name__}: {error}")
        return
    judge(report, acks, stored)
    judge_order(report, stored)
    if (verdict := check_integrity(path)) != "ok":
        report.note("errors", f"integrity_check says {verdict.splitlines()[0]}")


def judge_order(report: Report, stored: dict[str, list[Piece]]) -> None:
    """In each session, the batches of each writer are in the order in which it wrote them."""
    for session_id, pieces in stored.items():
        by_writer: dict[str, list[int]] = defaultdict(list)
        for piece in pieces:
            writer, _, number = piece.batch.partition(".")
            by_writer[writer].append(int(number))
        for writer, numbers in by_writer.items():
            if numbers != sorted(numbers):
                report.note("errors", f"{session_id}: those of {writer} came in another order")


def campaign(times: int) -> Report:
    """Race ``times`` times, in processes of both loops."""
    report = Report("processes", times, unit=f"new files, {PROCESSES} processes each")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # a real disk, whose syncs take their time
        child = Child("tests.faults.processes:host", folder, times)
        for number in range(times):
            if not child.listen(number + 1):
                code, complaints = child.kill()
                finding = "stuck" if code == -9 else "errors"
                report.note(finding, f"the host ended with {code}: {complaints[-300:]}")
                break
            path = Path(folder) / f"{number}.db"
            judge_race(report, path, json.loads(child.lines[number]), LOOPS[number % len(LOOPS)])
            report.counts["processes"] += PROCESSES
            path.unlink(missing_ok=True)
        else:
            child.end()
    report.seconds = time.monotonic() - start
    return report
