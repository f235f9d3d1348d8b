"""The campaign ``processes`` in short, and proof that it can find something."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults import processes
from tests.faults.batches import append
from tests.faults.children import Child
from tests.faults.report import Ack, Report

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def test_processes_in_short() -> None:
    report = processes.campaign(3)

    assert not report.found, report.messages
    assert report.acknowledged == 3 * processes.PROCESSES * processes.BATCHES * 2
    assert report.counts["processes"] == 3 * processes.PROCESSES


# -- the judgement


@pytest.fixture
def race(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A file of two writers, and what they say of it."""
    path = tmp_path / "x.db"
    acks = [anyio.run(processes.write, path, number) for number in range(2)]
    return path, [{"acks": [list(ack) for ack in one]} for one in acks]


def nothing(said: list[dict[str, Any]]) -> None:
    pass


def fail(said: list[dict[str, Any]]) -> None:
    said.append({"error": "BusyError: locked"})


def claim_more(said: list[dict[str, Any]]) -> None:
    said[0]["acks"].append(Ack("common", "0.9", 1, 99))


@pytest.mark.parametrize(
    ("damage", "findings"), [(nothing, {}), (fail, {"errors": 1}), (claim_more, {"lost": 1})]
)
def test_the_judgement_of_a_race(
    race: tuple[Path, list[dict[str, Any]]],
    damage: Callable[[list[dict[str, Any]]], None],
    findings: dict[str, int],
) -> None:
    path, said = race
    damage(said)
    report = Report("processes", 1)

    processes.judge_race(report, path, said, "asyncio")

    assert report.findings == findings


def test_a_writer_out_of_order_is_an_error(tmp_path: Path) -> None:
    async def write() -> None:
        async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
            for batch in ("1.0", "2.0", "2.1", "1.2", "1.1"):
                await append(history, "common", batch, 1)

    anyio.run(write)
    report = Report("processes", 1)

    processes.judge_race(report, tmp_path / "x.db", [], "trio")

    assert report.findings == {"errors": 1}
    assert "those of 1 came" in report.messages[0]


def test_a_file_that_does_not_open_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database")
    report = Report("processes", 1)

    processes.judge_race(report, tmp_path / "x.db", [], "asyncio")

    assert report.findings == {"unopenable": 1}


# -- the race


def run_race(path: str) -> None:
    """In a process of its own, which has no threads that a fork could hurt."""
    works = [partial(work, Path(path)) for work in (succeed, die, refuse)]
    for said in processes.race(works):
        print(said)


def succeed(path: Path) -> str:
    return path.name


def die(path: Path) -> None:
    os._exit(3)


def refuse(path: Path) -> None:
    raise ArithmeticError("no")


def test_a_process_that_dies_or_fails_is_heard(tmp_path: Path) -> None:
    child = Child("tests.faults.test_processes:run_race", tmp_path / "x")
    code, complaints = child.end()

    assert (code, complaints) == (0, "")
    assert child.lines == [
        "{'acks': 'x'}",
        "{'error': 'it died without a word'}",
        "{'error': 'ArithmeticError: no'}",
    ]
