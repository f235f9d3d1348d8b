"""The second half of stale: two processes over one SQLite file and one Redis.

Either process writes and reads, each with a cache of its own, at the default level. What a read
gives, in whichever process it is, is held against the writes that had returned before it began,
in whichever process they were. Now and then the other process is killed when its append is
committed and nobody knows of it yet, neither its own cache nor Redis.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from asynchistory import AsyncHistoryManager, Batch, SQLiteStorage
from asynchistory.cache.wiring import cache_of
from asynchistory.queries import Appended
from tests.faults.children import environment, program, say
from tests.faults.floors import perform, seen
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report
from tests.faults.stale import Interleaving
from tests.redis.server import RedisServer

#: One in so many interleavings ends with a writer that is killed.
KILL = 100
#: Seconds after which the other process hangs.
PATIENCE = 60.0


# -- the other process


class DyingStorage(SQLiteStorage):
    """A store whose process can be killed at the moment at which an append is committed."""

    dies = False

    async def _append(self, batch: Batch) -> Appended:
        done = await super().append(batch)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def append(self, batch: Batch) -> Any:
        return self._append(batch)


def child(path: str, url: str, backend: str) -> None:
    """Do what the parent says, any number of steps at once."""
    anyio.run(_serve, path, url, backend=backend)


async def _serve(path: str, url: str) -> None:
    storage = DyingStorage(path, durability="relaxed")

    async def do(number: int, step: dict[str, Any]) -> None:
        say(json.dumps([number, await perform(history, step)]))

    async with AsyncHistoryManager(storage, cache_of(storage, url)) as history:
        say("open")
        async with anyio.create_task_group() as tasks:
            async for line in anyio.wrap_file(sys.stdin):
                number, step = json.loads(line)
                if step["do"] == "die":
                    storage.dies, step["do"] = True, "append"
                tasks.start_soon(do, number, step)


class Other:
    """The other process, as this one sees it."""

    def __init__(self, path: Path, url: str, backend: str) -> None:
        self._command = program("tests.faults.stale_two:child", path, url, backend)
        self._number = 0
        self._waiting: dict[int, tuple[anyio.Event, list[dict[str, Any]]]] = {}
        self._sending = anyio.Lock()
        self._process: Any

    async def run(self, *, task_status: Any) -> None:
        """Be there until it ends."""
        async with await anyio.open_process(
            self._command, env=environment(), stderr=None
        ) as self._process:
            lines = BufferedByteReceiveStream(self._process.stdout)
            try:
                assert await lines.receive_until(b"\n", 100) == b"open"
                task_status.started()
                while True:
                    number, result = json.loads(await lines.receive_until(b"\n", 100_000))
                    event, answer = self._waiting.pop(number)
                    answer.append(result)
                    event.set()
            except anyio.IncompleteRead:
                for event, _ in self._waiting.values():
                    event.set()
            finally:
                with suppress(ProcessLookupError):
                    self._process.kill()

    async def __call__(self, step: dict[str, Any]) -> dict[str, Any]:
        """Have a step done there."""
        answer: list[dict[str, Any]] = []
        event = anyio.Event()
        self._number += 1
        self._waiting[self._number] = (event, answer)
        line = json.dumps([self._number, step]).encode() + b"\n"
        async with self._sending:
            await self._process.stdin.send(line)
        with anyio.fail_after(PATIENCE):
            await event.wait()
        return answer[0] if answer else {}

    async def stop(self) -> None:
        await self._process.stdin.aclose()


# -- this one


async def _look_again(report: Report, sides: list[Any], history: Any, session_id: str) -> None:
    """When nobody writes any more, all of them read what the store holds."""
    step = {"do": "read", "session": session_id}
    stored = seen(await perform(history, {**step, "level": "fresh"}))
    for side in sides:
        if seen(await side(step)) != stored:
            report.note("stale", f"{session_id}: not what is stored, with nobody writing")


async def block(report: Report, path: Path, url: str, loops: tuple[str, str], times: int) -> None:
    """So many interleavings between this process and another."""
    draw = random.Random(f"{report.seed}.{loops}")
    storage = SQLiteStorage(path, durability="relaxed")
    async with (
        AsyncHistoryManager(storage, cache_of(storage, url)) as history,
        anyio.create_task_group() as tasks,
    ):
        here = partial(perform, history)
        other = Other(path, url, loops[1])
        await tasks.start(other.run)
        for number in range(times):
            sides = [here, other]
            name = f"chat-{number}"
            interleaving = Interleaving(report, sides, name, draw, ("validated",))
            await interleaving.run()
            if number % KILL == KILL // 2:
                # Its cache is full of this session, and so is Redis.
                await other({"do": "read", "session": name})
                await other({"do": "die", "session": name, "text": f"{name}/killed"})
                report.counts["writers killed after the commit"] += 1
                other = Other(path, url, loops[1])
                await tasks.start(other.run)
            await _look_again(report, [here, other], history, name)
        await other.stop()
        _count(report, history)


def _count(report: Report, history: AsyncHistoryManager) -> None:
    second = history.get_cache_stats().second
    assert second is not None
    report.counts["Redis: tails read"] += second.hits
    report.counts["Redis: tails it had not"] += second.misses
    report.counts["Redis: failures"] += second.failures


def two_processes(report: Report, times: int) -> None:
    """So many interleavings with this process on each loop, and the other one on the other."""
    with memory_folder() as folder, RedisServer() as redis:
        for backend, other in (LOOPS, LOOPS[::-1]):
            path = Path(folder) / f"{backend}.db"
            run = partial(block, report, path, redis.url, (backend, other), times)
            anyio.run(run, backend=backend)
            report.counts[f"{backend}: interleavings in two processes"] += times
