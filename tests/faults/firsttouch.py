"""A hundred callers who all ask a factory for an instance that is not there yet, many times.

They are tasks of one event loop, or in many loops, each in a thread of its own, asyncio and trio at
once. Whoever gets to create holds the others up until all have asked, or does not, as it is drawn.
In some scenes the first creator is cancelled, or fails.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from asynchistory import ClientCreationError, LLMFactory
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.report import Report, new_seed

MIXED = ("asyncio", "trio")


class Scene(NamedTuple):
    """Where the callers are, and what becomes of the first creator.

    Attributes:
        loops: the kind of each event loop.
        tasks: the callers in each of them.
        end: how the first creation ends: it is made, cancelled, or fails.
    """

    loops: tuple[str, ...]
    tasks: int = 1
    end: str = "made"


SCENES: dict[str, Scene] = {
    "100 tasks, asyncio": Scene(("asyncio",), 100),
    "100 tasks, trio": Scene(("trio",), 100),
    "100 threads, asyncio": Scene(("asyncio",) * 100),
    "100 threads, trio": Scene(("trio",) * 100),
    "50 asyncio and 50 trio loops": Scene(MIXED * 50),
    "10 loops of 100 tasks": Scene(MIXED * 5, 100),
    "cancelled among tasks, asyncio": Scene(("asyncio",), 100, "cancelled"),
    "cancelled among tasks, trio": Scene(("trio",), 100, "cancelled"),
    "cancelled among 10 loops": Scene(MIXED * 5, 10, "cancelled"),
    "cancelled among 100 loops": Scene(MIXED * 50, 1, "cancelled"),
    "failing among tasks, asyncio": Scene(("asyncio",), 100, "fails"),
    "failing among tasks, trio": Scene(("trio",), 100, "fails"),
    "failing among 10 loops": Scene(MIXED * 5, 10, "fails"),
}


class Touch:
    """One first touch: all callers, what they got, and what was created for them."""

    def __init__(self, scene: Scene, factory: LLMFactory, holds: bool) -> None:
        self.scene = scene
        self.factory = factory
        self.all = scene.tasks * len(scene.loops)
        # Without it some callers come when all is over, which is as it should be too.
        self.holds = holds or scene.end != "made"
        self.begun = 0
        self.made: list[object] = []
        self.got: list[object] = []
        self.errors: list[ClientCreationError] = []
        self.cancelled = 0
        self._gate = threading.Barrier(len(scene.loops))

    def run(self) -> None:
        """Let all ask at once, and wait until they are done."""
        threads = [threading.Thread(target=self._loop, args=(kind,)) for kind in self.scene.loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self, kind: str) -> None:
        anyio.run(self._ask_all, backend=kind)

    async def _ask_all(self) -> None:
        self._gate.wait()  # in a thread of its own; nothing else runs in this loop
        async with anyio.create_task_group() as group:
            for _ in range(self.scene.tasks):
                group.start_soon(self._ask)

    async def _ask(self) -> None:
        with anyio.CancelScope() as scope:
            try:
                create = partial(self._create, scope)
                self.got.append(await self.factory.get_or_create("key", create))
            except ClientCreationError as error:
                self.errors.append(error)
        self.cancelled += scope.cancelled_caught

    async def _create(self, scope: anyio.CancelScope) -> object:
        self.begun += 1
        await anyio.lowlevel.checkpoint()
        while self.holds and self.factory.get_cache_stats().misses < self.all:
            await anyio.lowlevel.checkpoint()
        if self.begun == 1 and self.scene.end == "cancelled":
            scope.cancel()
            await anyio.sleep_forever()
        if self.begun == 1 and self.scene.end == "fails":
            raise OSError("no network")
        self.made.append(object())
        return self.made[-1]


def judge(report: Report, name: str, touch: Touch) -> None:
    """Count what is other than promised."""
    end, statistics = touch.scene.end, touch.factory.get_cache_stats()
    created = 0 if end == "fails" else 1
    served = 0 if end == "fails" else touch.all - (end == "cancelled")
    report.stored += len(touch.made)
    report.acknowledged += len(touch.got) + len(touch.errors)
    if len(touch.made) > created or statistics.creations > created:
        report.note("duplicates", f"{name}: {len(touch.made)} were made")
    if len(touch.got) < served:
        report.note("lost", f"{name}: {len(touch.got)} of {served} were served")
    if {id(one) for one in touch.got} != {id(one) for one in touch.made}:
        report.note("errors", f"{name}: what was given is not what was made")
    wanted = touch.all if end == "fails" else 0
    if len(touch.errors) != wanted or len({id(error) for error in touch.errors}) > 1:
        report.note("errors", f"{name}: {len(touch.errors)} errors, and not the same {wanted}")
    if touch.cancelled != (end == "cancelled") or statistics.hand_overs != (end == "cancelled"):
        report.note("errors", f"{name}: {touch.cancelled} cancelled, {statistics}")
    if statistics.failures != (end == "fails") or touch.factory._flights:
        report.note("stranded", f"{name}: {statistics}, flights {len(touch.factory._flights)}")


async def _again(factory: LLMFactory) -> Any:
    async def create() -> str:
        return "at the second try"

    return await factory.get_or_create("key", create)


def touch_once(
    report: Report, name: str, draw: random.Random, make: Callable[[], LLMFactory] = LLMFactory
) -> None:
    """Play one scene, and judge it."""
    scene = SCENES[name]
    touch = Touch(scene, make(), draw.random() < 0.5)
    touch.run()
    judge(report, name, touch)
    if scene.end == "fails":
        found = anyio.run(_again, touch.factory, backend=draw.choice(MIXED))
        if found != "at the second try":
            report.note("errors", f"{name}: the next call did not try again")
    report.counts[name] += 1


# -- the campaign


def child(seed: str, times: str) -> None:
    """Play each scene ``times``."""
    draw = random.Random(int(seed))
    for number in range(int(times)):
        report = Report("firsttouch", 1)
        for name in SCENES:
            say(f"{name}, number {number}")
            touch_once(report, name, draw)
        tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Play each scene ``times``."""
    report = Report("firsttouch", times, unit="times each scene", seed=new_seed())
    start = time.monotonic()
    follow(report, Child("tests.faults.firsttouch:child", report.seed, times))
    report.seconds = time.monotonic() - start
    return report
