"""The campaign ``cancel`` in short, and proof that it can find something."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest
from msgspec.structs import replace

from asynchistory import Appended, SQLiteStorage
from asynchistory.storage.port import Batch
from tests.faults import cancel
from tests.faults.cancelled import WAYS, Cancelled
from tests.faults.children import Child, follow
from tests.faults.leftovers import (
    living_tasks,
    look_for_leftovers,
    look_for_tasks,
    store_threads,
)
from tests.faults.report import LOOPS, Report
from tests.faults.stages import STAGES


def test_cancel_in_short() -> None:
    report = cancel.campaign(400)

    assert not report.found, report.messages
    for backend in LOOPS:
        for stage in ("unstarted", "queued"):
            assert report.counts[f"{backend}: {stage}, cancelled"] > 10
        for stage in STAGES[2:]:
            assert report.counts[f"{backend}: {stage}, completed"] > 10
            assert report.counts[f"{backend}: {stage}, cancelled"] == 0
        assert all(report.counts[f"{backend}: by {way}"] > 10 for way in WAYS[backend])


class Stubborn(SQLiteStorage):
    """Stores what was taken back, and says that it did not: what a thread does that goes on."""

    async def append(self, batch: Batch) -> Appended:
        try:
            return await super().append(batch)
        except Cancelled:
            with anyio.CancelScope(shield=True):
                await super().append(batch)
            raise


class Forgetful(SQLiteStorage):
    """Says of a second record that it is stored, when it is not."""

    async def append(self, batch: Batch) -> Appended:
        if batch.session_id == "session-1":
            batch = replace(batch, rows=batch.rows[:1])
        return await super().append(batch)


class Doubling(SQLiteStorage):
    """Stores a batch twice."""

    async def append(self, batch: Batch) -> Appended:
        if batch.session_id == "session-1":
            batch = replace(batch, rows=[*batch.rows, *batch.rows])
        return await super().append(batch)


@pytest.mark.parametrize(
    ("make", "finding"),
    [(SQLiteStorage, None), (Stubborn, "ghosts"), (Forgetful, "lost"), (Doubling, "duplicates")],
)
@pytest.mark.parametrize("backend", LOOPS)
def test_a_store_that_breaks_its_promise_is_found_out(
    memory: Path, backend: str, make: type[SQLiteStorage], finding: str | None
) -> None:
    report = Report("cancel", 300)

    anyio.run(partial(cancel.block, report, memory / "x.db", backend, 300, make), backend=backend)

    assert report.found == (finding is not None), report.messages
    assert finding is None or getattr(report, finding) > 0


class Leaking(SQLiteStorage):
    """Delivers a cancellation that its scope has taken back."""

    async def append(self, batch: Batch) -> Appended:
        appended = await super().append(batch)
        task = asyncio.current_task()
        assert task is not None
        if batch.session_id.startswith("session-"):
            asyncio.get_running_loop().call_soon(task.cancel)
        return appended


def test_a_cancellation_that_outlives_its_scope_is_found(memory: Path) -> None:
    report = Report("cancel", 300)

    anyio.run(partial(cancel.block, report, memory / "x.db", "asyncio", 300, Leaking))

    assert report.errors > 0
    assert any("outlived" in message for message in report.messages)


def test_a_thread_that_is_left_over_is_found(memory: Path) -> None:
    before, go_on = store_threads(), threading.Event()
    thread = threading.Thread(target=go_on.wait, name="asynchistory-writer", daemon=True)
    thread.start()
    report = Report("cancel", 1)

    look_for_leftovers(report, memory / "x.db", patience=0, before=before)
    go_on.set()

    assert report.findings == {"stranded": 1}


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN; SELECT * FROM sqlite_schema"])
def test_a_lock_that_is_left_over_is_found(memory: Path, lock: str) -> None:
    path = memory / "x.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").fetchall()
    connection.execute(lock).fetchall()
    report = Report("cancel", 1)

    look_for_leftovers(report, path, before=store_threads())
    connection.close()

    assert report.findings == {"stranded": 1}


@pytest.mark.parametrize("backend", LOOPS)
def test_a_task_that_is_left_over_is_found(backend: str) -> None:
    report = Report("cancel", 1)

    async def leave_a_task() -> None:
        before = living_tasks()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            await look_for_tasks(report, before, patience=0)
            tasks.cancel_scope.cancel()
        await look_for_tasks(report, before, patience=0)

    anyio.run(leave_a_task, backend=backend)

    assert report.findings == {"stranded": 1}


def test_a_child_that_hangs_is_stuck() -> None:
    report = Report("cancel", 1)

    follow(report, Child("tests.faults.children:wait_for_go"), patience=0)

    assert report.findings == {"stuck": 1}


def test_a_child_that_fails_is_an_error(memory: Path) -> None:
    report = Report("cancel", 1)

    follow(report, Child("tests.faults.cancel:child", memory, "no such loop", 1, 1))

    assert report.findings == {"errors": 1}
    assert "no such loop" in report.messages[0]
