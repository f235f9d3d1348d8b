"""No room for what is written: a limit on the size of files, and a disk that is full."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    OutcomeUnknownError,
    SQLiteStorage,
    StorageUnavailableError,
)
from tests.faults.batches import CANARY, all_pieces, append, contents
from tests.faults.children import Child, environment, program, say
from tests.faults.report import LOOPS, Ack, Piece, Report, judge, judge_refused

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")

BACKENDS = pytest.mark.parametrize("backend", LOOPS)


class Filling:
    """Writers that go on until there is no room, and what they were told."""

    def __init__(self, history: AsyncHistoryManager) -> None:
        self.history = history
        self.acks: list[Ack] = []
        self.refused: set[str] = set()
        self.said: list[str] = []

    async def until_refused(self) -> None:
        async with anyio.create_task_group() as tasks:
            for task in range(4):
                tasks.start_soon(self._write, f"{task}")
        assert len(self.said) == 4
        assert CANARY not in "".join(self.said)

    async def _write(self, task: str) -> None:
        for number in range(10_000):
            batch = f"{task}.{number}"
            try:
                ack = await append(self.history, f"session-{task}", batch, 2, CANARY * 100)
            except OutcomeUnknownError as error:  # it may be there, and may not
                self.said.append(str(error))
                return
            except StorageUnavailableError as error:
                self.said.append(str(error))
                self.refused.add(batch)
                return
            self.acks.append(ack)

    async def go_on(self) -> None:
        """There is room again."""
        for task in range(4):
            self.acks.append(await append(self.history, f"session-{task}", f"after.{task}", 1))
        self.hold("in the open store", await all_pieces(self.history))

    def hold(self, where: str, stored: dict[str, list[Piece]]) -> None:
        report = Report(where, 1)
        judge(report, self.acks, stored)
        judge_refused(report, self.refused, stored)
        assert not report.found, report.messages


# -- a limit


def write_under_a_limit(folder: str, backend: str, room: str) -> None:
    """Reach the limit in the middle of something, lift it, and go on: in a process of its own."""
    import resource

    path = Path(folder) / "x.db"

    async def work() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
            filling = Filling(history)
            filling.acks.append(await append(history, "session-0", "before", 1))
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            log = path.with_name("x.db-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (log + int(room), hard))
            await filling.until_refused()
            assert len(await history.last("session-0", 1)) == 1  # reads go on
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            await filling.go_on()
        filling.hold("after reopening", await contents(path))
        say(f"{len(filling.acks)} acknowledged")

    anyio.run(work, backend=backend)


@BACKENDS
# In the middle of a frame of the log, at the end of one, and after some commits.
@pytest.mark.parametrize("room", [100, 4120, 30_000, 300_000])
def test_a_limit_that_is_reached_and_lifted(tmp_path: Path, backend: str, room: int) -> None:
    child = Child("tests.faults.test_full_disk:write_under_a_limit", tmp_path, backend, room)

    assert child.end() == (0, "")
    assert int(child.lines[-1].split()[0]) >= 5


def open_under_a_limit(folder: str, backend: str, room: str) -> None:
    """Make a new file with too little room for it, then with enough."""
    import resource

    path = Path(folder) / "x.db"

    async def work() -> None:
        history = AsyncHistoryManager(SQLiteStorage(path))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), hard))
        with pytest.raises(StorageUnavailableError, match=r"x\.db"):
            await history.__aenter__()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        async with history:
            say(f"{(await append(history, 's', 'first', 1)).first_seq}")

    anyio.run(work, backend=backend)


@BACKENDS
@pytest.mark.parametrize("room", [0, 3000, 10_000, 30_000])
def test_a_new_file_without_room_opens_at_the_next_attempt(
    tmp_path: Path, backend: str, room: int
) -> None:
    child = Child("tests.faults.test_full_disk:open_under_a_limit", tmp_path, backend, room)

    assert child.end() == (0, "")
    assert child.lines == ["1"]


# -- a disk of its own


def write_to_a_full_disk(folder: str, backend: str) -> None:
    """Fill a disk up, make room, and go on."""
    path, ballast = Path(folder) / "x.db", Path(folder) / "ballast"

    async def work() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
            filling = Filling(history)
            filling.acks.append(await append(history, "session-0", "before", 1))
            await filling.until_refused()
            ballast.unlink()
            await filling.go_on()
        filling.hold("after reopening", await contents(path))
        say(f"{len(filling.acks)} acknowledged")
        say("\n".join(set(filling.said)))

    ballast.write_bytes(bytes(500_000))
    anyio.run(work, backend=backend)


@BACKENDS
def test_a_full_disk_that_gets_room_again(tmp_path: Path, backend: str) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    mount = "mount -t tmpfs -o size=1m none " + f"'{tmp_path}'"
    unshare = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a disk")
    work = program("tests.faults.test_full_disk:write_to_a_full_disk", tmp_path, backend)

    done = subprocess.run(
        [*unshare, f'{mount} && exec "$@"', "sh", *work],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    acknowledged, *said = done.stdout.splitlines()
    assert int(acknowledged.split()[0]) > 5
    # Of what has found no room it is known that it is not there.
    assert [line for line in said if "disk is full; free some space" not in line] == []
