"""Short forms of the fault campaigns, and proof that their judgement can find something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import anyio
import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from tests.faults.__main__ import CAMPAIGNS, main, table
from tests.faults.report import FINDINGS, Ack, Piece, Report, judge
from tests.faults.sigkill import Bench, Child, kill_one

KEYS = {"campaign", "times", "acknowledged", *FINDINGS}
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@posix
def test_sigkill_in_short(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["sigkill", "--times", "3", "--json"])

    found = json.loads(capfd.readouterr().out)
    assert found.keys() >= KEYS
    assert {name: found[name] for name in FINDINGS} == dict.fromkeys(FINDINGS, 0), found
    assert (found["campaign"], found["times"], found["loops"]) == (
        "sigkill",
        3,
        ["asyncio", "trio"],
    )
    assert code == 0


@pytest.mark.parametrize("arguments", [[], ["none"], ["sigkill", "--times", "0"]])
def test_wrong_usage_is_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2


# -- the judgement

A = [Piece(1, "a", 0, 2), Piece(2, "a", 1, 2)]
B = [Piece(3, "b", 0, 1)]
ACKS = [Ack("s", "a", 2, 1), Ack("s", "b", 1, 3)]


def judged(acks: list[Ack], pieces: list[Piece]) -> dict[str, int]:
    report = Report("test", 1)
    judge(report, acks, {"s": pieces})
    return report.findings


def moved(pieces: list[Piece], by: int) -> list[Piece]:
    return [piece._replace(seq=piece.seq + by) for piece in pieces]


@pytest.mark.parametrize(
    ("pieces", "findings"),
    [
        ([*A, *B], {}),
        ([*A, *B, Piece(4, "not acknowledged", 0, 1)], {}),
        ([*A], {"lost": 1}),
        ([], {"lost": 2}),
        ([A[0], *moved(B, -1)], {"lost": 2, "torn": 1}),
        ([A[0], Piece(2, "b", 0, 1), Piece(3, "a", 1, 2)], {"lost": 2, "torn": 1}),
        ([*A, *B, *moved(B, 1)], {"duplicates": 1}),
        ([*A, *B, *moved(A, 3)], {"duplicates": 1}),
        ([*A, *moved(B, 1)], {"lost": 1, "errors": 1}),
        ([*moved(A, 1), *moved(B, 1)], {"lost": 2, "errors": 1}),
        ([*A, *B, Piece(4, "c", 1, 2)], {"torn": 1}),
    ],
    ids=str,
)
def test_the_judgement(pieces: list[Piece], findings: dict[str, int]) -> None:
    assert judged(ACKS, pieces) == findings


def test_a_finding_is_shown_to_people_and_in_the_exit_code() -> None:
    report = Report("test", 1)
    assert not report.found
    report.note("lost", "batch 7")

    assert report.found
    assert "batch 7" in table(report)


# -- the campaign, with damage done on purpose


def store(path: Path, batches: list[tuple[str, int]]) -> list[Ack]:
    async def write() -> list[Ack]:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            return [await append(history, batch, size) for batch, size in batches]

    async def append(history: AsyncHistoryManager, batch: str, size: int) -> Ack:
        records = [
            Message.of("user", "x", metadata={"batch": batch, "index": index, "size": size})
            for index in range(size)
        ]
        appended = await history.append("s", *records)
        return Ack("s", batch, size, appended.first_seq)

    return anyio.run(write)


def break_nothing(path: Path) -> None:
    pass


def execute(*statements: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        import apsw

        connection = apsw.Connection(str(path))
        for statement in statements:
            connection.execute(statement)
        connection.close()

    return damage


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (break_nothing, None),
        (execute("DELETE FROM records WHERE seq = 5", "UPDATE sessions SET seq = 4"), "lost"),
        (execute("DELETE FROM records WHERE seq = 4"), "errors"),
        (execute("UPDATE records SET crc = 1 WHERE seq = 4"), "errors"),
        (overwrite, "unopenable"),
    ],
)
def test_the_campaign_sees_damage(
    tmp_path: Path, damage: Callable[[Path], None], finding: str | None
) -> None:
    report = Report("sigkill", 1)
    bench = Bench(report, tmp_path, "asyncio")
    bench.check(store(bench.path, [("a", 2), ("b", 1)]))
    acks = store(bench.path, [("c", 2)])
    damage(bench.path)

    bench.check(acks)
    bench.check_all()

    assert report.found == (finding is not None), report.messages
    assert finding is None or getattr(report, finding) > 0


@posix
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_child_acknowledges_what_it_stored_and_dies_of_the_kill(
    tmp_path: Path, backend: str
) -> None:
    report = Report("sigkill", 1)
    bench = Bench(report, tmp_path, backend)
    child = Child(bench.path, backend, "round")
    child.go()
    assert child.listen(30)

    code, complaints = child.kill()
    acks = child.acks

    assert (code, complaints) == (-9, "")
    assert len(acks) >= 29
    assert {ack.session_id for ack in acks} == {f"session-{number}" for number in range(5)}
    bench.check(acks)
    assert not report.found, report.messages
    assert report.acknowledged == len(acks)


@posix
def test_a_child_that_fails_is_an_error(tmp_path: Path) -> None:
    report = Report("sigkill", 1)
    (tmp_path / "x.db").write_text("not a database")

    class Long(Random):
        def choice(self, options: list[int]) -> int:  # type: ignore[override]
            return options[-1] + 1

    acks = kill_one(report, Child(tmp_path / "x.db", "asyncio", "round"), Long())

    assert acks == []
    assert report.errors == 1
    assert "ForeignDatabaseError" in report.messages[0]


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--help"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0
    assert [name for name in CAMPAIGNS if f"    {name} " not in done.stdout] == []


@posix
def test_a_child_that_ended_before_its_turn_is_an_error(tmp_path: Path) -> None:
    report = Report("sigkill", 1)
    child = Child(tmp_path / "x.db", "no such loop", "round")
    child.go()
    assert not child.listen(1)

    acks = kill_one(report, child, Random(1))

    assert (acks, report.errors) == ([], 1)
    assert "LookupError" in report.messages[0]
