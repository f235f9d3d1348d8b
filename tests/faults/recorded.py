"""Work with a store while all that it asks of the file system is recorded: a child of powercut."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import apsw
import msgspec

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import append
from tests.faults.children import DONE, say
from tests.faults.recording import Event, Recorder

SESSIONS = 4


class Plan:
    """What one recording is to show, drawn at random."""

    def __init__(self, draw: random.Random) -> None:
        #: Where the file is, seen from the recorded folder; some folders are new, too.
        self.name = draw.choice(["history.db", "history.db", "new/folder/history.db"])
        #: Pages of the log after which SQLite copies them into the file. A small number shows
        #: in a short recording what 1,000, which is SQLite's own, shows in a long one.
        self.autocheckpoint = draw.choice([4, 30, 1000])
        self.openings = draw.randint(1, 3)
        self.tasks = draw.randint(1, 12)
        self.batches = draw.randint(1, 20)
        self.filling = draw.choice([10, 500, 6000])
        self.checkpoints = draw.random() < 0.5
        self.reader = draw.random() < 0.3


class Work:
    """Appends to one file, and what they said, among the recorded events."""

    def __init__(self, log: list[Event], path: Path, draw: random.Random, durability: Any) -> None:
        self.log = log
        self.path = path
        self.draw = draw
        self.plan = Plan(draw)
        self.durability: Literal["full", "relaxed"] = durability

    async def run(self) -> None:
        for opening in range(self.plan.openings):
            storage = SQLiteStorage(self.path / self.plan.name, durability=self.durability)
            async with AsyncHistoryManager(storage) as history, anyio.create_task_group() as tasks:
                for task in range(self.plan.tasks):
                    tasks.start_soon(self._append, history, f"{opening}.{task}")
                if self.plan.checkpoints:
                    tasks.start_soon(anyio.to_thread.run_sync, self._checkpoint)
                if self.plan.reader:
                    tasks.start_soon(self._hold_a_snapshot)

    async def _append(self, history: AsyncHistoryManager, name: str) -> None:
        draw = random.Random(f"{self.draw.random()}")
        for number in range(self.plan.batches):
            batch, size = f"{name}.{number}", draw.randint(1, 5)
            filling = draw.randrange(self.plan.filling)
            key = batch if draw.random() < 0.5 else None
            session_id = f"session-{draw.randrange(SESSIONS)}"
            ack = await append(history, session_id, batch, size, "x" * filling, key=key)
            self.log.append(["ack", *ack, filling, key])

    def _connect(self) -> apsw.Connection:
        return apsw.Connection(str(self.path / self.plan.name), flags=apsw.SQLITE_OPEN_READWRITE)

    def _checkpoint(self) -> None:
        connection = self._connect()
        for mode in (apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_TRUNCATE):
            with suppress(apsw.BusyError):  # the writer or a reader is at it: seen as well
                connection.wal_checkpoint(mode=mode)
        connection.close()

    async def _hold_a_snapshot(self) -> None:
        # While it is held the log cannot begin anew, so that the file and a long log go together.
        connection = self._connect()
        connection.execute("BEGIN; SELECT count(*) FROM records").fetchall()
        for _ in range(self.draw.randrange(2000)):
            await anyio.lowlevel.checkpoint()
        connection.close()


def record(folder: str, backend: str, seed: str, count: str, durability: str) -> None:
    """Make ``count`` recordings, and say the file of each."""
    recorder = Recorder()
    pages = [1000]
    apsw.connection_hooks.append(lambda connection: connection.wal_autocheckpoint(pages[0]))
    for number in range(int(count)):
        root = Path(folder) / f"{backend}-{number}"
        root.mkdir()
        work = Work(recorder.log, root, random.Random(f"{seed}.{backend}.{number}"), durability)
        pages[0] = work.plan.autocheckpoint
        recorder.start(root)
        anyio.run(partial(work.run), backend=backend)
        shutil.rmtree(root)
        recording = {"name": work.plan.name, "number": number, "log": recorder.log}
        done = root.with_suffix(".log")
        done.write_bytes(msgspec.msgpack.encode(recording))
        say(done.name)
    say(DONE)
