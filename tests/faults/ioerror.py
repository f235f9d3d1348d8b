"""Let every single call to the file system fail, one after another, and hold the store to its word.

For each kind of call (see :mod:`tests.faults.failing`) and each scene of a store's life, the first
call fails, in the next run the second, and so on until a run passes without a fault. Once with a
fault that passes, once with one that stays until the scene has ended. Then:

- an append that returned is there; one that raised is not, or was said to be unknown. This is
  held against the file after the store was closed, and also as it was right after the fault, when
  the process might have been killed;
- every call ended, and what it raised is one of the library's errors;
- the same store goes on, or opens at the next attempt.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import apsw

from asynchistory import AsyncHistoryManager, OutcomeUnknownError, SQLiteStorage, StorageError
from tests.faults import failing
from tests.faults.batches import all_pieces, append, contents, pieces_of
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.failing import Switch
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Ack, Piece, Report, judge, judge_refused

FILLING = "x" * 2000


def copy_files(path: Path, folder: Path) -> None:
    """Copy a database with what a killed process leaves beside it."""
    folder.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-journal"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            shutil.copy(file, folder)


class Run:
    """One run of a scene, with one fault, on a new folder."""

    make: type[SQLiteStorage] = SQLiteStorage

    def __init__(self, report: Report, folder: Path, switch: Switch) -> None:
        self.report = report
        self.path = folder / "history.db"
        self.switch = switch
        self.storage = self.make(self.path, lock_timeout=0.2)
        self.history = AsyncHistoryManager(self.storage, level="fresh")
        self.acks: list[Ack] = []
        self.refused: set[str] = set()
        self.unknown: dict[str, str] = {}  #: the session of each batch
        self.opened = False
        self.image: tuple[Path, list[Ack], set[str]] | None = None

    # -- what is done, and what is told of it

    async def append(self, session_id: str, batch: str) -> None:
        try:
            ack = await append(self.history, session_id, batch, 2, FILLING, key=batch)
            self.acks.append(ack)
        except OutcomeUnknownError as error:
            self.unknown[batch] = session_id
            if error.idempotency_key != batch:
                self.report.note("errors", f"an unknown outcome names {error.idempotency_key}")
        except StorageError:
            self.refused.add(batch)
        except Exception as error:
            self._untyped("append", error)

    async def read(self, session_id: str) -> None:
        """Read, which may fail, but not leave anything out."""
        acks = [ack for ack in self.acks if ack.session_id == session_id]
        try:
            stored = {session_id: await pieces_of(self.history, session_id)}
            await self.history.last(session_id, level="validated")
        except StorageError:
            return
        except Exception as error:
            self._untyped("a read", error)
            return
        self._hold("a read", acks, self.refused, stored)

    async def open(self) -> None:
        try:
            await self.storage.open()
            self.opened = True
        except StorageError:
            pass
        except Exception as error:
            self._untyped("open", error)

    async def close(self) -> None:
        self.opened = False
        try:
            await self.storage.aclose()
        except Exception as error:
            self._untyped("aclose", error)

    def _untyped(self, what: str, error: Exception) -> None:
        self.report.note("errors", f"{what} raised {type(error).__name__}: {error}")

    # -- what is held against it

    def _hold(
        self, where: str, acks: list[Ack], refused: set[str], stored: dict[str, list[Piece]]
    ) -> None:
        found = Report("", 0)
        judge(found, acks, stored)
        judge_refused(found, refused, stored, "silent")
        for message in found.messages:
            self.report.note("silent", f"{where}: {message}")

    def keep_image(self) -> None:
        """Copy the files as they are after the first fault, which is what a kill would leave."""
        if self.image is not None or not self.switch.failed:
            return
        folder = self.path.with_name("image")
        copy_files(self.path, folder)
        self.image = folder / self.path.name, list(self.acks), set(self.refused)

    def look_for_leftovers(self) -> None:
        """A connection that is left to the garbage collector may be closed at any time.

        If another file stands at its path by then, its write-ahead log is deleted.
        """
        left = [one for one in apsw.connections() if one.filename == str(self.path)]
        if left:
            self.report.note("stranded", f"{len(left)} connections to a store that is closed")

    async def check(self) -> None:
        """Hold what was told against the files, which nobody has open."""
        await self._check("after reopening", self.path, self.acks, self.refused)
        if self.image is not None:
            await self._check("had it been killed at the fault", *self.image)

    async def _check(self, where: str, path: Path, acks: list[Ack], refused: set[str]) -> None:
        try:
            stored = await contents(path)
        except Exception as error:
            self.report.note("unopenable", f"{where}: {type(error).__name__}: {error}")
        else:
            self._hold(where, acks, refused, stored)

    async def go_on(self) -> None:
        """The fault is over: the same store must work, and tell an unknown outcome by its key."""
        try:
            if not self.opened:
                await self.storage.open()
            self.acks.append(await append(self.history, "a", "after", 1))
            for batch, session_id in self.unknown.items():
                ack = await append(self.history, session_id, batch, 2, FILLING, key=batch)
                self.acks.append(ack)
            stored = await all_pieces(self.history)
            self._hold("afterwards", self.acks, self.refused, stored)
        except Exception as error:
            self.report.note("errors", f"it does not go on: {type(error).__name__}: {error}")


# -- the scenes


async def opening(run: Run) -> None:
    """A new file is made."""
    run.switch.start()
    await run.open()
    run.keep_image()
    if run.opened:
        await run.append("a", "first")
        run.keep_image()


async def reopening(run: Run) -> None:
    """A file is opened that a process left when it was killed."""
    async with AsyncHistoryManager(SQLiteStorage(run.path)) as history:
        run.acks.append(await append(history, "a", "before", 2, FILLING))
        copy_files(run.path, run.path.with_name("left"))
    copy_files(run.path.with_name("left") / run.path.name, run.path.parent)
    run.switch.start()
    await run.open()
    if run.opened:
        await run.read("a")
        await run.append("a", "first")
        run.keep_image()


async def working(run: Run) -> None:
    """An open file is written, alone and by several at once, and read."""
    await run.open()
    await run.append("a", "before")
    run.switch.start()
    for number in range(2):
        await run.append("a", f"alone-{number}")
        run.keep_image()
    async with anyio.create_task_group() as tasks:
        for session_id in ("a", "b", "c"):
            tasks.start_soon(run.append, session_id, f"together-{session_id}")
    run.keep_image()
    await run.read("a")


async def closing(run: Run) -> None:
    """An open file is closed, which copies its log into it."""
    await run.open()
    await run.append("a", "before")
    await run.read("a")
    run.switch.start()
    await run.close()
    run.keep_image()


Scene = Callable[[Run], Awaitable[None]]
SCENES: tuple[Scene, ...] = (opening, reopening, working, closing)


async def play(run: Run, scene: Scene) -> None:
    """Play a scene, see that the store goes on, and hold all against the file."""
    await scene(run)
    run.switch.off()
    await run.go_on()
    await run.close()
    run.look_for_leftovers()
    await run.check()


# -- the campaign


def series(
    report: Report, folder: Path, switch: Switch, scene: Scene, stays: bool, backend: str
) -> bool:
    """Play a scene with a fault at the first call, the second ...; False if calls are left."""
    for number in range(1, report.times + 1):
        place = folder / f"{scene.__name__}-{number}"
        place.mkdir()
        switch.set(number, stays=stays)
        found = Report("", 0)
        run = Run(found, place, switch)
        anyio.run(play, run, scene, backend=backend)
        shutil.rmtree(place)
        gc.collect()  # what was left over must not do its harm in the next run
        found.counts["appends refused"] = len(run.refused)
        found.counts["appends of unknown outcome"] = len(run.unknown)
        found.acknowledged = len(run.acks)
        report.add(found, f"{scene.__name__} on {backend}, call {number}{' and on' * stays}")
        if not switch.failed:
            return True
        report.counts["faults"] += 1
    return False


def child(folder: str, kind: str, times: str) -> None:
    """Play all scenes with faults of one kind, and report each series."""
    switch = failing.install(kind)
    for backend in LOOPS:
        for scene in SCENES:
            for stays in (False, True):
                say(f"{kind}, {scene.__name__} on {backend}")
                report = Report("ioerror", int(times))
                whole = series(report, Path(folder), switch, scene, stays, backend)
                report.counts[f"faults: {kind}"] = report.counts["faults"]
                report.counts["series to their end" if whole else "series cut short"] += 1
                report.messages = [f"{message} [{kind}]" for message in report.messages]
                tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Fail each of the first ``times`` calls of every kind, in every scene, on each loop."""
    report = Report("ioerror", times, unit="calls of each kind and scene at most, on each loop")
    start = time.monotonic()
    for kind in filter(failing.available, failing.KINDS):
        with memory_folder() as folder:
            follow(report, Child("tests.faults.ioerror:child", folder, kind, times))
    report.seconds = time.monotonic() - start
    return report
