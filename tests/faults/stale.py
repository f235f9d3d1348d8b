"""Let writes and reads of a session interleave at random, and look for reads that are stale.

*In one process*: tasks that read, at the levels ``validated`` and ``cached``, while others append,
truncate, replace, delete and make the session again, over a store that takes its time, at random,
before and after it does its work. What a read gives is held against the writes that had returned
before it began.

*In two processes* over one SQLite file and one Redis: see :mod:`tests.faults.stale_two`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from asynchistory import (
    AsyncHistoryManager,
    MemoryStorage,
    TailCache,
    Version,
)
from asynchistory.queries import Tail
from tests.faults.floors import Floor, perform, seen
from tests.faults.report import LOOPS, Report, new_seed

T = TypeVar("T")
READERS, WRITES = 3, 5
#: Sessions in one store, so that it does not grow without end.
BLOCK = 500


class SlowStorage(MemoryStorage):
    """A store that lets others go first, a number of times that is drawn."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.draw = draw

    async def _pause(self) -> None:
        for _ in range(self.draw.choice((0, 0, 1, 1, 2, 4, 8))):
            await checkpoint()

    async def version(self, session_id: str) -> Version | None:
        await self._pause()
        found = await super().version(session_id)
        await self._pause()
        return found

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        await self._pause()
        found = await super().tail(session_id, limit)
        await self._pause()
        return found

    async def append(self, batch: Any) -> Any:
        await self._pause()
        done = await super().append(batch)
        await self._pause()
        return done

    async def delete_session(self, session_id: str) -> bool:
        await self._pause()
        done = await super().delete_session(session_id)
        await self._pause()
        return done


#: Does a step of :func:`tests.faults.floors.perform`, in this process or another.
Side = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Interleaving:
    """One session, who writes it and who reads it, on any of several sides."""

    def __init__(
        self,
        report: Report,
        sides: Sequence[Side],
        name: str,
        draw: random.Random,
        levels: Sequence[str],
    ) -> None:
        self.report = report
        self.sides = sides
        self.draw = draw
        self.levels = levels
        self.floor = Floor(name)
        self.number = 0
        self.writing = True

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(READERS):
                tasks.start_soon(self.read)
            tasks.start_soon(self.write)

    async def do(self, what: str, **details: Any) -> dict[str, Any]:
        step = {"do": what, "session": self.floor.session_id, **details}
        return await self.draw.choice(self.sides)(step)

    async def read(self) -> None:
        while self.writing:
            for _ in range(self.draw.randrange(4)):
                await checkpoint()
            mark = self.floor.mark
            forget = self.draw.random() < 0.2
            found = await self.do("read", level=self.draw.choice(self.levels), forget=forget)
            self.floor.judge(self.report, mark, seen(found))

    async def write(self) -> None:
        steps: list[Callable[[], Awaitable[object]]] = [
            self.append, self.append, self.burst, self.truncate, self.replace, self.delete,
        ]  # fmt: skip
        try:
            await self.append()
            for _ in range(WRITES):
                await self.draw.choice(steps)()
        finally:
            self.writing = False

    async def append(self, how: str = "append") -> None:
        self.number += 1
        text = f"{self.floor.session_id}/{self.number}"
        self._wrote(await self.do(how, text=text), text)

    async def burst(self) -> None:
        """Several at once, which learn of their outcome in any order."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self.draw.randint(2, 4)):
                tasks.start_soon(self.append)

    async def truncate(self) -> None:
        self._wrote(await self.do("truncate", to=self.draw.randrange(3)))

    async def replace(self) -> None:
        await self.append("replace")

    async def delete(self) -> None:
        self.floor.deleting()
        await self.do("delete")
        self.floor.deleted()
        if self.draw.random() < 0.7:
            await self.append()  # made again

    def _wrote(self, done: dict[str, Any], text: str | None = None) -> None:
        if done:  # and not of a session that is gone
            self.floor.wrote(done["epoch"], done["seq"], text)
            self.report.acknowledged += 1


MakeCache = Callable[[], TailCache]


async def block(
    report: Report, times: int, draw: random.Random, make_cache: MakeCache = TailCache
) -> None:
    """So many interleavings over one new store."""
    async with AsyncHistoryManager(SlowStorage(draw), make_cache()) as history:
        sides = [partial(perform, history)]
        for number in range(times):
            name = f"chat-{number}"
            await Interleaving(report, sides, name, draw, ("validated", "cached")).run()
        for name, count in history.get_cache_stats()._asdict().items():
            if name in ("hits", "misses", "stale", "loads"):
                report.counts[f"cache: {name}"] += count


def one_process(report: Report, times: int, make_cache: MakeCache = TailCache) -> None:
    for backend in LOOPS:
        draw = random.Random(f"{report.seed}.{backend}")
        for start in range(0, times, BLOCK):
            count = min(BLOCK, times - start)
            anyio.run(partial(block, report, count, draw, make_cache), backend=backend)
        report.counts[f"{backend}: interleavings in one process"] += times


def campaign(times: int) -> Report:
    """So many interleavings on each loop, in one process and in two."""
    from tests.faults.stale_two import two_processes

    report = Report("stale", times, unit="interleavings on each loop", seed=new_seed())
    start = time.monotonic()
    one_process(report, times)
    two_processes(report, times)
    report.seconds = time.monotonic() - start
    return report
