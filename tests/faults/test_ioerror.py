"""The campaign ``ioerror`` in short, and proof that it can find something."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import Appended, SQLiteStorage
from asynchistory.errors import StorageUnavailableError
from asynchistory.storage.port import Batch
from tests.faults import ioerror
from tests.faults.children import Child, follow
from tests.faults.failing import KINDS, Switch, available
from tests.faults.report import Report


def played(memory: Path, function: str, kind: str, times: int) -> Report:
    report = Report("ioerror", times)
    follow(report, Child(function, memory, kind, times))
    return report


#: One of each sort; the campaign takes all.
SHORT = ["xOpen:CANTOPEN", "xRead:IOERR_READ", "xWrite:FULL", "xSync:IOERR_FSYNC", "xLock:BUSY",
         "pread64:EIO", "pwrite64:ENOSPC"]  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in SHORT if available(kind)])
def test_ioerror_in_short(memory: Path, kind: str) -> None:
    report = played(memory, "tests.faults.ioerror:child", kind, 2)

    assert not report.found, report.messages
    assert report.counts["series to their end"] + report.counts["series cut short"] == 16
    assert report.counts["faults"] >= 16
    assert kind in KINDS


# -- stores that do not keep their word


class Deaf(SQLiteStorage):
    """Says that it has stored what it could not."""

    async def append(self, batch: Batch) -> Appended:
        try:
            return await super().append(batch)
        except StorageUnavailableError:
            rows = len(batch.rows)
            return Appended(session_id=batch.session_id, epoch=1, first_seq=1, last_seq=rows)


class Hasty(SQLiteStorage):
    """Tries again behind its caller's back."""

    async def append(self, batch: Batch) -> Appended:
        try:
            return await super().append(batch)
        except StorageUnavailableError:
            await super().append(batch)
            raise


class Coarse(SQLiteStorage):
    """Lets through whatever it meets."""

    async def append(self, batch: Batch) -> Appended:
        try:
            return await super().append(batch)
        except StorageUnavailableError as error:
            raise OSError(5, "input/output error") from error


class Weary(SQLiteStorage):
    """Does not go on after a fault."""

    tired = False

    async def append(self, batch: Batch) -> Appended:
        if self.tired:
            raise StorageUnavailableError("no more")
        try:
            return await super().append(batch)
        except StorageUnavailableError:
            self.tired = True
            raise


BROKEN = {
    store.__name__: (store, finding)
    for store, finding in (
        (Deaf, "silent"), (Hasty, "silent"), (Coarse, "errors"), (Weary, "errors"),
    )
}  # fmt: skip


def play_broken(folder: str, kind_and_store: str, times: str) -> None:
    kind, _, store = kind_and_store.partition(" ")
    ioerror.Run.make = BROKEN[store][0]
    ioerror.child(folder, kind, times)


@pytest.mark.parametrize("store", sorted(BROKEN))
def test_a_store_that_does_not_keep_its_word_is_found_out(memory: Path, store: str) -> None:
    function = "tests.faults.test_ioerror:play_broken"

    report = played(memory, function, f"xWrite:IOERR_WRITE {store}", 2)

    finding = BROKEN[store][1]
    assert getattr(report, finding) > 0
    assert set(report.findings) <= {finding, "silent"}


# -- the switch


def calls(switch: Switch, count: int) -> list[bool]:
    return [switch.fails() for _ in range(count)]


def test_a_switch_fails_one_call_or_all_from_it_on_and_only_between_start_and_off() -> None:
    switch = Switch()
    assert calls(switch, 2) == [False, False]
    switch.set(2, stays=False)
    assert calls(switch, 2) == [False, False]
    switch.start()
    assert calls(switch, 4) == [False, True, False, False]
    assert switch.failed == 1

    switch.set(2, stays=True)
    assert calls(switch, 4) == [False, True, True, True]
    switch.off()
    assert calls(switch, 2) == [False, False]
    assert switch.failed == 3
