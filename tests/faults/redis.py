"""Take Redis away from a cache in every way, and look at what is read, written and waited for.

Each scene, on each loop, is played twice over one SQLite file, with Redis behind a proxy. First in
the middle of a crowd that reads and writes: nothing that is read may be wrong or stale, nothing
that was acknowledged lost, and afterwards the cache must come back by itself. Then for a lone
reader, whose every read is timed.

*cancelled* is a scene of its own: reads of two users' tails, straight from Redis, that are
cancelled after a moment that is drawn. --times counts these.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage, Version
from asynchistory.cache.redis.line import MOST
from asynchistory.cache.redis.tier import RedisTier
from asynchistory.cache.wiring import cache_of
from asynchistory.queries import Tail
from asynchistory.testing import FaultProxy
from tests.faults.floors import Floor, perform, seen
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report, new_seed
from tests.redis.server import RedisServer

SESSIONS, READERS, WRITERS = 20, 8, 3
#: Reads of a phase, and those of the lone reader.
READS, LONE = 150, 60
#: Seconds that one read may take, and in which the cache must be back.
MOST_SECONDS, BACK = 0.3, 30.0


class Place(NamedTuple):
    """A Redis and the way to it."""

    redis: RedisServer
    proxy: FaultProxy

    def mend(self) -> None:
        self.redis.resume()
        self.proxy.heal()


def restart(place: Place) -> None:
    place.redis.kill()
    place.redis.start()


#: How Redis is taken away, and how it is given back.
SCENES: dict[str, tuple[Callable[[Place], object], Callable[[Place], object]]] = {
    "refused": (lambda place: place.proxy.refuse(), Place.mend),
    "hung": (lambda place: place.redis.pause(), Place.mend),
    "no way": (lambda place: place.proxy.hang(), Place.mend),
    "killed": (lambda place: place.redis.kill(), lambda place: place.redis.start()),
    "restarted": (restart, Place.mend),
    "flushed": (lambda place: place.redis.ask("FLUSHALL"), Place.mend),
    "cut": (lambda place: place.proxy.cut(), Place.mend),
    "truncated": (lambda place: place.proxy.truncate_replies(700), Place.mend),
    "dropped": (lambda place: place.proxy.drop_replies(), Place.mend),
    "late": (lambda place: place.proxy.delay(0.6), Place.mend),
}


class Scene:
    """One scene: sessions, who reads and writes them, and how long it took."""

    def __init__(self, report: Report, history: AsyncHistoryManager, draw: random.Random) -> None:
        self.report = report
        self.history = history
        self.draw = draw
        self.floors = [Floor(f"chat-{number}") for number in range(SESSIONS)]
        self.reads = 0
        self.playing = True

    async def fill(self) -> None:
        for floor in self.floors:
            for _ in range(10):
                await self.write(floor)
            await self.read(floor)
        await self.history.cache.settle()

    async def write(self, floor: Floor) -> None:
        text = f"{floor.session_id}/{len(floor.texts)}/{'x' * 100}"
        step = {"do": "append", "session": floor.session_id, "text": text}
        done = await perform(self.history, step)
        floor.wrote(done["epoch"], done["seq"], text)
        self.report.acknowledged += 1

    async def read(self, floor: Floor) -> float:
        """Read past this process's own tier; the seconds that it took."""
        mark = floor.mark
        step = {"do": "read", "session": floor.session_id, "forget": True}
        start = time.perf_counter()
        found = await perform(self.history, step)
        taken = time.perf_counter() - start
        floor.judge(self.report, mark, seen(found))
        self.reads += 1
        return taken

    async def crowd(self, go_wrong: Callable[[], object]) -> None:
        """Many at once, and in the middle of it something goes wrong."""
        self.playing = True
        async with anyio.create_task_group() as tasks:
            for work in [self._reading] * READERS + [self._writing] * WRITERS:
                tasks.start_soon(work)
            for phase in range(2):
                goal = self.reads + READS
                while self.reads < goal:
                    await checkpoint()
                if phase == 0:
                    go_wrong()
            self.playing = False

    async def _reading(self) -> None:
        while self.playing:
            await self.read(self.draw.choice(self.floors))
            await checkpoint()

    async def _writing(self) -> None:
        while self.playing:
            await self.write(self.draw.choice(self.floors))
            goal = self.reads + 5
            while self.playing and self.reads < goal:
                await checkpoint()

    async def alone(self, name: str, go_wrong: Callable[[], object]) -> None:
        """One reader, who is timed."""
        before = [await self.read(floor) for floor in self.floors]
        go_wrong()
        after = [await self.read(self.draw.choice(self.floors)) for _ in range(LONE)]
        slow = [taken for taken in after if taken > MOST_SECONDS]
        paid = [taken for taken in after if taken > 0.1]
        if len(paid) > 1 and name != "late":
            self.report.counts[f"{name}: reads over 0.1 s beside the first"] += len(paid) - 1
        for taken in slow:
            self.report.note("stuck", f"{name}: a read took {taken:.3f} s")
        peaks = self.report.peaks
        peaks[f"{name}: the slowest read, ms"] = _ms(max(after))
        peaks[f"{name}: the other reads, median, us"] = _us(statistics.median(after))
        peaks[f"{name}: before, median, us"] = _us(statistics.median(before))

    async def back(self, name: str) -> None:
        """The cache is used again, by itself."""
        start = time.perf_counter()
        hits = self._hits()
        with anyio.move_on_after(BACK):
            while self._hits() == hits:
                await self.read(self.draw.choice(self.floors))
                await self.history.cache.settle()
            taken = time.perf_counter() - start
            peaks = self.report.peaks
            peaks[f"{name}: back after, ms"] = max(peaks[f"{name}: back after, ms"], _ms(taken))
            return
        self.report.note("stuck", f"{name}: Redis is there again, and is not used")

    def _hits(self) -> int:
        second = self.history.get_cache_stats().second
        assert second is not None
        return second.hits

    async def check_stored(self) -> None:
        """Nothing that was acknowledged is lost."""
        for floor in self.floors:
            page = await self.history.last(floor.session_id, 10_000, level="fresh")
            texts = [record.text for record in page if isinstance(record, Message)]
            for version, text in floor.texts.items():
                if texts[version.seq - 1] != text:
                    self.report.note("lost", f"{floor.session_id} {version}")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


async def play(report: Report, name: str, place: Place, path: Path) -> None:
    """One scene, on the running loop."""
    go_wrong, mend = (partial(step, place) for step in SCENES[name])
    storage = SQLiteStorage(path, durability="relaxed")
    cache = cache_of(storage, f"redis://127.0.0.1:{place.proxy.port}")
    async with AsyncHistoryManager(storage, cache) as history:
        scene = Scene(report, history, random.Random(f"{report.seed}.{path.name}"))
        await scene.fill()
        await scene.crowd(go_wrong)
        mend()
        await scene.back(name)
        await scene.alone(name, go_wrong)
        mend()
        await scene.back(name)
        await scene.check_stored()


# -- cancelled


@asynccontextmanager
async def two_users(url_port: int) -> AsyncIterator[tuple[RedisTier, dict[str, Tail]]]:
    """A tier that has a tail of each of two users."""
    from asynchistory.cache.redis.line import Server

    tier = RedisTier(Server("127.0.0.1", url_port), f"two-{random.random()}")
    tails = {}
    for number, user in enumerate(("alice", "bob"), 1):
        records = tuple(
            _stored(user, seq, Message.of("user", f"{user}/{seq}/{'x' * 200}"))
            for seq in range(1, 21)
        )
        tails[user] = Tail(Version(number, 20), records)
        tier.keep(user, tails[user])
    assert await tier.settle()
    yield tier, tails


def _stored(session_id: str, seq: int, message: Message) -> Message:
    from asynchistory.codec import encode_record, row_record

    found = row_record(session_id, seq, encode_record(message))
    assert isinstance(found, Message)
    return found


class Storm:
    """Reads that are cancelled, each after some time."""

    def __init__(self, report: Report, tier: RedisTier, tails: dict[str, Tail], times: int) -> None:
        self.report = report
        self.tier = tier
        self.tails = tails
        self.left = times
        self.draw = random.Random(report.seed)
        self.due: deque[tuple[float, anyio.CancelScope]] = deque()

    async def rage(self) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(MOST):
                tasks.start_soon(self._reader)
            while self.left > 0:
                now = time.perf_counter()
                for _ in range(len(self.due)):
                    moment, scope = self.due.popleft()
                    if moment <= now:
                        scope.cancel()
                    else:
                        self.due.append((moment, scope))
                await checkpoint()
            tasks.cancel_scope.cancel()

    async def _reader(self) -> None:
        while self.left > 0:
            user = self.draw.choice(list(self.tails))
            tail = self.tails[user]
            with anyio.CancelScope() as scope:
                # Most before the answer is there, some after it.
                moment = self.draw.random() * self.draw.choice((0.001, 0.004, 0.02))
                self.due.append((time.perf_counter() + moment, scope))
                found = await self.tier.get(user, tail.version)
                self.report.counts["answered"] += found is not None
                if found is not None and found != tail:
                    self.report.note("wrong", f"{user} was given something else")
            if scope.cancelled_caught:
                self.left -= 1
                self.report.counts["cancelled reads"] += 1
            await checkpoint()


async def cancelled(report: Report, place: Place, times: int) -> None:
    """So many reads that are cancelled."""
    before = place.proxy.accepted
    async with two_users(place.proxy.port) as (tier, tails):
        await Storm(report, tier, tails, times).rage()
        for user, tail in tails.items():
            with anyio.move_on_after(BACK) as scope:
                while await tier.get(user, tail.version) != tail:
                    await checkpoint()
            if scope.cancelled_caught:
                report.note("stuck", f"the tail of {user} cannot be read any more")
        report.peaks["connections open at once"] = max(
            report.peaks["connections open at once"], place.proxy.connections
        )
    report.counts["connections made"] += place.proxy.accepted - before


# -- the campaign


def campaign(times: int) -> Report:
    """Every scene on each loop, and so many cancelled reads on each."""
    report = Report("redis", times, unit="cancelled reads on each loop", seed=new_seed())
    start = time.monotonic()
    with memory_folder() as folder, RedisServer() as redis, FaultProxy(redis.port) as proxy:
        place = Place(redis, proxy)
        for backend in LOOPS:
            for name in SCENES:
                path = Path(folder) / f"{backend}-{name}.db"
                anyio.run(partial(play, report, name, place, path), backend=backend)
            anyio.run(partial(cancelled, report, place, times), backend=backend)
    report.seconds = time.monotonic() - start
    return report
