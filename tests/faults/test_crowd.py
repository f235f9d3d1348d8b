"""The campaign ``crowd`` in short, and proof that it can find something."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from asynchistory import Appended, SQLiteStorage
from asynchistory.errors import StorageUnavailableError
from asynchistory.storage.port import Batch
from tests.faults import crowd
from tests.faults.report import LOOPS, Report

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/fd to count")

SIZE = 300


def gather(path: Path, backend: str, make: crowd.MakeStorage) -> Report:
    report = Report("crowd", 1)
    anyio.run(partial(crowd.gather, report, path, backend, SIZE, make), backend=backend)
    return report


@pytest.mark.parametrize("backend", LOOPS)
def test_crowd_in_short(memory: Path, backend: str) -> None:
    report = gather(memory / "x.db", backend, SQLiteStorage)

    assert not report.found, report.messages
    assert report.acknowledged == report.stored == SIZE
    assert report.peaks[f"{backend}: tasks at once"] == SIZE
    assert 0 < report.peaks[f"{backend}: threads at most"] <= 5
    assert 0 < report.peaks[f"{backend}: descriptors at most"] <= 13


class Hoarding(SQLiteStorage):
    """Opens a file for each session."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.descriptors: list[int] = []

    async def append(self, batch: Batch) -> Appended:
        self.descriptors.append(os.open(os.devnull, os.O_RDONLY))
        return await super().append(batch)

    async def aclose(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        await super().aclose()


class Spawning(SQLiteStorage):
    """Starts a thread for each session."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.closed = threading.Event()

    async def append(self, batch: Batch) -> Appended:
        threading.Thread(target=self.closed.wait, name="asynchistory-session").start()
        return await super().append(batch)

    async def aclose(self) -> None:
        self.closed.set()
        await super().aclose()


class Losing(SQLiteStorage):
    """Stores nothing of a session, and says so of another."""

    async def append(self, batch: Batch) -> Appended:
        if batch.session_id == "session-7":
            raise StorageUnavailableError("no")
        if batch.session_id == "session-8":
            batch = replace(batch, rows=[*batch.rows, *batch.rows])
        return await super().append(batch)


@pytest.mark.parametrize(
    ("make", "findings", "message"),
    [
        (Hoarding, {"stranded": 1}, "descriptors at most"),
        (Spawning, {"stranded": 1}, "threads at most"),
        (Losing, {"errors": 1, "lost": 1}, "StorageUnavailableError"),
    ],
)
def test_a_store_that_takes_too_much_is_found_out(
    memory: Path, make: crowd.MakeStorage, findings: dict[str, int], message: str
) -> None:
    report = gather(memory / "x.db", "asyncio", make)

    assert report.findings == findings
    assert any(message in line for line in report.messages)
