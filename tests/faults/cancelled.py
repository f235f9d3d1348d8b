"""Appends and reads that are cancelled on purpose, each at a stage of its own: a child of cancel.

A *victim* is one append or read. The *hunter* watches all victims of a round, turn after turn of
the loop, and cancels each when it has reached the stage that was drawn for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import trio
from anyio.abc import TaskGroup

from asynchistory import AsyncHistoryManager, HistoryQuery
from tests.faults.batches import append
from tests.faults.report import Ack, Report
from tests.faults.stages import STAGES, Stages

#: Victims that are alive at the same time.
ROUND = 120
SESSIONS = 4
#: So many appends may complete in a row in a task that was cancelled. Each is a chance less than
#: even, as the writer must have taken it before the loop's next turn.
MOST_LEFT = 100
Cancelled = (asyncio.CancelledError, trio.Cancelled)
WAYS = {"asyncio": ("task", "again", "timeout", "scope"), "trio": ("scope", "nested")}


class Victim:
    """One append (of the batch ``name``) or read, and how it is cancelled."""

    def __init__(self, field: Field, name: str, draw: random.Random) -> None:
        self.field = field
        self.name = name
        self.way = draw.choice(WAYS[field.backend])
        self.reads = draw.random() < 0.1
        # Those that are never cancelled must not notice what happens to the others.
        self.target = draw.choice([*STAGES, "never"])
        # Some are hit after a number of turns instead, wherever they are then.
        self.turns = -1
        if self.reads or draw.random() < 0.2:
            self.turns = draw.randrange(6 if self.reads else 60)
        self.size = draw.randint(1, 3)
        self.session_id = f"session-{draw.randrange(SESSIONS)}"
        self.begun = self.completed = self.ended = False
        self.hit = ""  #: the stage at which it was cancelled
        self.cancel: Callable[[], object]

    @property
    def stage(self) -> str:
        if not self.begun:
            return "unstarted"
        return "reading" if self.reads else self.field.stages.of(self.name)

    def due(self) -> bool:
        """Whether it is to be cancelled in this turn."""
        if self.target == "never" or (self.way == "timeout" and not self.begun):
            return False  # a timeout begins to run with its block
        if self.turns >= 0:
            self.turns -= 1
            return self.turns < 0
        stage = self.stage
        return stage == "reading" or STAGES.index(stage) >= STAGES.index(self.target)

    # -- its life

    def start(self, tasks: TaskGroup) -> None:
        if self.way in ("task", "again"):
            task = asyncio.create_task(self._work())
            self.cancel = task.cancel
            tasks.start_soon(self._see_off, task)
        elif self.way == "timeout":
            block = asyncio.timeout(None)
            self.cancel = lambda: block.reschedule(asyncio.get_running_loop().time())
            tasks.start_soon(self._in_timeout, block)
        else:
            scope = anyio.CancelScope()
            self.cancel = scope.cancel
            tasks.start_soon(self._in_scope, scope)

    async def _work(self) -> None:
        self.begun = True
        try:
            await (self._read() if self.reads else self._append(self.name))
        finally:
            self.ended = not self.hit
        self.completed = True
        if self.hit:
            await self._be_cancelled()

    async def _be_cancelled(self) -> None:
        """It completed although it was cancelled: the next call that can be taken back ends."""
        if self.size > 1:
            await anyio.sleep_forever()
        for number in range(MOST_LEFT):
            await self._append(f"{self.name}+{number}")
        self.field.report.note("stuck", f"{self.name} by {self.way}: its cancellation is lost")

    async def _append(self, name: str) -> None:
        try:
            ack = await append(self.field.history, self.session_id, name, self.size)
        except Cancelled:
            self.field.refused.add(name)
            raise
        self.field.acks.append(ack)

    async def _read(self) -> None:
        history = self.field.history
        if self.size == 1:
            await history.last("first", 20, level="fresh")
        else:
            await history.query_history(HistoryQuery("first", limit=5, newest=True))

    async def _see_off(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait([task])
        self.ended = True
        if not task.cancelled():
            task.result()

    async def _in_timeout(self, block: asyncio.Timeout) -> None:
        with suppress(TimeoutError):
            async with block:
                await self._work()
        self.ended = True
        await self._look_for_strays()

    async def _in_scope(self, scope: anyio.CancelScope) -> None:
        with scope:
            if self.way == "nested":
                with anyio.CancelScope():
                    await self._work()
            else:
                await self._work()
        self.ended = True
        await self._look_for_strays()

    async def _look_for_strays(self) -> None:
        """The scope has ended, and what it cancelled with it."""
        try:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        except Cancelled:
            self.field.report.note("errors", f"{self.name}: a cancellation outlived its {self.way}")


class Field:
    """The victims of one store, and what became of them."""

    def __init__(
        self, history: AsyncHistoryManager, stages: Stages, report: Report, backend: str
    ) -> None:
        self.history = history
        self.stages = stages
        self.report = report
        self.backend = backend
        self.acks: list[Ack] = []
        self.refused: set[str] = set()
        self.hits = 0

    async def round(self, name: str, draw: random.Random) -> None:
        """Let victims live, and cancel each of them in its turn."""
        victims = [Victim(self, f"{name}.{number}", draw) for number in range(ROUND)]
        async with anyio.create_task_group() as tasks:
            for victim in victims:
                victim.start(tasks)
            await self._hunt(victims)
        for victim in victims:
            if victim.hit:
                self.hits += 1
                end = "completed" if victim.completed else "cancelled"
                self.report.counts[f"{self.backend}: {victim.hit}, {end}"] += 1
                self.report.counts[f"{self.backend}: by {victim.way}"] += 1

    async def _hunt(self, victims: list[Victim]) -> None:
        prey = victims
        try:
            while prey:
                for victim in prey:
                    if not victim.hit and victim.due():
                        victim.hit = victim.stage
                    if victim.hit:
                        victim.cancel()
                self.stages.turn(more=True)
                await anyio.lowlevel.checkpoint()
                prey = [v for v in prey if not v.ended and (not v.hit or v.way == "again")]
        finally:
            self.stages.turn(more=False)
