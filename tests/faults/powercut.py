"""Cut the power at any moment of a store's life, and see what the disk then holds.

A child works with the real store on new files, and records all that is asked of the file system
and when each append is acknowledged (see :mod:`tests.faults.recording`). From the recordings
images are made of what a disk may hold if the power is cut at a random moment (see
:mod:`tests.faults.images`). Each is opened with the real store and held against what was
acknowledged until then.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec

from asynchistory import AsyncHistoryError, AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import all_pieces, append, check_integrity, records_of
from tests.faults.children import Child
from tests.faults.images import MODES, Disk, Image, Mode
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Ack, Piece, Report, judge, new_seed

#: So many images are made from one recording, about.
IMAGES = 50


class Said(NamedTuple):
    """An acknowledged append, and what is needed to repeat it with its key."""

    ack: Ack
    filling: int
    key: str | None


class Moment(NamedTuple):
    """The disk at one moment, and what was acknowledged until then."""

    disk: Disk
    said: list[Said]


def moments(log: list[list[Any]], points: list[int]) -> Iterator[Moment]:
    """The disk after so many events, for each of the ascending ``points``."""
    disk, said = Disk(), list[Said]()
    done = 0
    for point in points:
        for event in log[done:point]:
            if event[0] == "ack":
                said.append(Said(Ack(*event[1:5]), *event[5:]))
            else:
                disk.happen(event)
        done = point
        yield Moment(disk, said)


def some_points(log: list[list[Any]], count: int, draw: random.Random) -> list[int]:
    """Moments of a recording: half of them when the most is at stake."""
    last = len(log)
    # Just before a sync the most is pending; just after an acknowledgement the most is promised.
    tense = [at for at, event in enumerate(log) if event[0] in ("sync", "folder")]
    tense += [at + 1 for at, event in enumerate(log) if event[0] == "ack"]
    choices = [lambda: draw.randint(0, last), lambda: draw.choice(tense)]
    return sorted(draw.choice(choices)() for _ in range(count))


# -- the judgement


def lay_out(image: Image, folder: Path) -> None:
    """Write an image down, in place of whatever is in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in image.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def judge_image(report: Report, path: Path, said: list[Said], backend: str) -> None:
    """Open an image as the store does, and hold it against what was acknowledged."""
    keyed = [item for item in said if item.key is not None][-1:]
    try:
        stored, wrong = anyio.run(partial(_use, path, keyed), backend=backend)
    except AsyncHistoryError as error:
        report.note("unopenable", f"{type(error).__name__}: {error}")
        return
    except Exception as error:
        report.note("errors", f"{type(error).__name__}: {error}")
        return
    for message in wrong:
        report.note("duplicates", message)
    judge(report, [item.ack for item in said], stored)
    if (verdict := check_integrity(path)) != "ok":
        report.note("errors", f"integrity_check says {verdict.splitlines()[0]}")


async def _use(path: Path, keyed: list[Said]) -> tuple[dict[str, list[Piece]], list[str]]:
    """What is stored; then see that it can be written, and that its keys are known."""
    wrong: list[str] = []
    async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
        stored = await all_pieces(history)
        for ack, filling, key in keyed:
            records = records_of(ack.batch, ack.size, "x" * filling)
            again = await history.append(ack.session_id, *records, idempotency_key=key)
            if not again.replayed:
                wrong.append(f"the key of {ack} was forgotten, and the batch stored once more")
        ack = await append(history, "after", "after", 1)
        if ack.first_seq != 1 or "after" not in await all_pieces(history):
            raise ValueError("what was appended after the cut is not there")
    return stored, wrong


# -- the campaign


def judge_recording(
    report: Report, recording: dict[str, Any], count: int, folder: Path, backend: str
) -> None:
    """Make images of one recording and judge each."""
    log, name = recording["log"], recording["name"]
    draw = random.Random(f"{report.seed}.{recording['number']}.{backend}")
    modes: list[Mode] = [MODES[number % len(MODES)] for number in range(count)]
    for mode, moment in zip(modes, moments(log, some_points(log, count, draw)), strict=True):
        lay_out(moment.disk.image(mode, draw), folder)
        found = Report("powercut", 1)
        judge_image(found, folder / name, moment.said, backend)
        found.counts[f"images, {mode}"] += 1
        found.counts["images before the first acknowledgement"] += not moment.said
        report.add(found, f"{name}, {recording['number']} on {backend}, {mode}")
    report.counts["recordings"] += 1
    report.counts.update(f"recorded: {event[0]}" for event in log)


def campaign(times: int, durability: str = "full") -> Report:
    """Judge ``times`` images, half of them of recordings on each loop."""
    report = Report("powercut", times, unit="images of both loops", seed=new_seed())
    start = time.monotonic()
    each = max(1, round(times / IMAGES / len(LOOPS)))
    with memory_folder() as name:
        folder = Path(name)
        recorders = {
            backend: Child(
                "tests.faults.recorded:record", folder, backend, report.seed, each, durability
            )
            for backend in LOOPS
        }
        left, recordings = times, each * len(LOOPS)
        for backend, child in recorders.items():
            for number in range(each):
                count = round(left / recordings)
                left, recordings = left - count, recordings - 1
                if not child.listen(number + 1):
                    break
                file = folder / child.lines[number]
                recording = msgspec.msgpack.decode(file.read_bytes())
                file.unlink()
                judge_recording(report, recording, count, folder / "image", backend)
            code, complaints = child.end() if child.listen(each + 1) else child.kill()
            if code != 0:
                report.note("errors", f"the recorder ended with {code}: {complaints[-300:]}")
    report.seconds = time.monotonic() - start
    return report
