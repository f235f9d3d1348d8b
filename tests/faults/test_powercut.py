"""The campaign ``powercut`` in short, and proof that it can find something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgspec
import pytest

from tests.faults import powercut
from tests.faults.children import Child
from tests.faults.images import MODES, Disk
from tests.faults.powercut import Said, judge_image, lay_out, moments
from tests.faults.report import Ack, Report

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="the recorder names descriptors by Linux's /proc"
)


def recording_of(folder: Path, backend: str, *, name: str) -> list[list[Any]]:
    """A recording of work on a new file."""
    for seed in range(100):
        child = Child("tests.faults.recorded:record", folder, backend, seed, 1, "full")
        assert child.end() == (0, "")
        recording = msgspec.msgpack.decode((folder / child.lines[0]).read_bytes())
        if recording["name"] == name:
            log: list[list[Any]] = recording["log"]
            return log
    raise AssertionError


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    return recording_of(tmp_path_factory.mktemp("x"), "asyncio", name="history.db")


def test_powercut_in_short() -> None:
    report = powercut.campaign(60)

    assert not report.found, report.messages
    assert report.acknowledged > 100
    assert {report.counts[f"images, {mode}"] for mode in MODES} == {20}


def test_it_finds_what_a_store_loses_that_does_not_sync_each_commit() -> None:
    report = powercut.campaign(400, durability="relaxed")

    assert report.lost > 0
    assert report.torn == report.errors == 0, report.messages  # it loses the last ones whole


def forget_folders(log: list[list[Any]]) -> list[list[Any]]:
    return [event for event in log if event[0] != "folder"]


def forget_syncs(log: list[list[Any]]) -> list[list[Any]]:
    return [event for event in log if event[0] != "sync"]


@pytest.mark.parametrize("forget", [forget_folders, forget_syncs])
def test_it_finds_a_missing_sync(
    memory: Path, log: list[list[Any]], forget: Callable[[list[list[Any]]], list[list[Any]]]
) -> None:
    report = Report("powercut", 1)
    recording = {"log": forget(log), "name": "history.db", "number": 0}

    powercut.judge_recording(report, recording, 30, memory / "image", "asyncio")

    assert report.lost > 0


def test_acknowledgements_follow_the_sync_of_their_log(log: list[list[Any]]) -> None:
    kinds = [event[0] for event in log]
    first = kinds.index("ack")

    assert {"open", "write", "sync", "folder", "delete"} <= set(kinds[:first])
    opened = next(at for at, event in enumerate(log) if event[2:] == ["history.db-wal"])
    assert ["sync", log[opened][1]] in log[opened:first]
    # SQLite's own sync of the folder, which no method of a VFS shows.
    assert "folder" in kinds[opened:first]


# -- the moments at which a file is created


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_process_killed_at_any_moment_of_creating_a_file_leaves_one_that_opens(
    memory: Path, log: list[list[Any]], backend: str
) -> None:
    first = [event[0] for event in log].index("ack") + 1
    report = Report("killed", first)

    for disk, said in moments(log, list(range(first + 1))):
        lay_out(disk.image("killed", Random(1)), memory / "image")
        judge_image(report, memory / "image/history.db", said, backend)

    assert not report.found, report.messages
    assert report.acknowledged == 1


# -- the judgement of one image


@pytest.fixture
def image(memory: Path, log: list[list[Any]]) -> tuple[Path, list[Said]]:
    """A file that holds all that was acknowledged."""
    [(disk, said)] = moments(log, [len(log)])
    lay_out(disk.image("killed", Random(1)), memory / "image")
    return memory / "image/history.db", said


def execute(path: Path, *statements: str) -> None:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def nothing(path: Path) -> None:
    pass


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


def forget_keys(path: Path) -> None:
    execute(path, "DELETE FROM idempotency")


def lose_the_last(path: Path) -> None:
    execute(
        path,
        "DELETE FROM records WHERE (sid, seq) IN (SELECT sid, seq FROM sessions)",
        "UPDATE sessions SET seq = seq - 1",
    )


def mix_up_an_index(path: Path) -> None:
    # Of this index nothing is read, so that only the integrity check can see it.
    execute(
        path,
        "CREATE INDEX extra ON records(ts)",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX extra ON records(id)' WHERE name = 'extra'",
    )


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (nothing, None),
        (overwrite, "unopenable"),
        (forget_keys, "duplicates"),
        (lose_the_last, "lost"),
        (mix_up_an_index, "errors"),
    ],
)
def test_the_judgement_of_an_image(
    image: tuple[Path, list[Said]], damage: Callable[[Path], None], finding: str | None
) -> None:
    path, said = image
    damage(path)
    report = Report("powercut", 1)

    judge_image(report, path, said, "asyncio")

    assert report.found == (finding is not None), report.messages
    assert finding is None or getattr(report, finding) > 0


def test_an_acknowledgement_from_later_is_lost(image: tuple[Path, list[Said]]) -> None:
    path, said = image
    report = Report("powercut", 1)

    judge_image(report, path, [*said, Said(Ack("session-0", "later", 1, 999), 0, None)], "trio")

    assert report.findings == {"lost": 1}


def test_a_disk_without_a_file_is_a_new_store(memory: Path) -> None:
    report = Report("powercut", 1)
    lay_out(Disk().image("strict", Random(1)), memory / "image")

    judge_image(report, memory / "image/history.db", [], "asyncio")

    assert not report.found, report.messages
