"""A thousand readers of a session that nobody has read yet: one load."""

from __future__ import annotations

import random
import threading
from functools import partial
from pathlib import Path

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Message,
    SQLiteStorage,
    StorageUnavailableError,
    TailCache,
)
from tests.unit.tail_setting import Setting

CROWD = 1000


class Crowd:
    """Readers, and what each of them got."""

    def __init__(self, at: Setting) -> None:
        self.at = at
        self.got: list[list[str]] = []
        self.failed: list[Exception] = []
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def read(self, number: int) -> None:
        with anyio.CancelScope() as self.scopes[number]:
            try:
                self.got.append(await self.at.read())
            except StorageUnavailableError as error:
                self.failed.append(error)

    def start(self, tasks: anyio.abc.TaskGroup, count: int = CROWD) -> None:
        for number in range(count):
            tasks.start_soon(self.read, number)

    def let_go(self) -> None:
        self.at.storage.hold = False
        for event in self.at.storage.held:
            event.set()


async def held_back(at: Setting) -> None:
    await at.storage.wait_for(1)
    await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_a_thousand_first_touches_are_one_load() -> None:
    async with Setting() as at, anyio.create_task_group() as tasks:
        await at.say("one")
        at.storage.hold = True
        crowd = Crowd(at)
        crowd.start(tasks)
        await held_back(at)
        crowd.let_go()

    assert crowd.got == [["one"]] * CROWD
    assert at.storage.tails == 1


def test_three_loops_at_once_are_three_loads_at_most() -> None:
    at = Setting()
    barrier = threading.Barrier(3)
    crowd = Crowd(at)

    async def loop(first: int) -> None:
        barrier.wait()
        async with anyio.create_task_group() as tasks:
            for number in range(CROWD):
                tasks.start_soon(crowd.read, first + number)

    async def prepare() -> None:
        await at.storage.open()
        await at.say("one")

    anyio.run(prepare)
    threads = [
        threading.Thread(target=partial(anyio.run, loop, place * CROWD, backend=backend))
        for place, backend in enumerate(("asyncio", "asyncio", "trio"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert crowd.got == [["one"]] * (3 * CROWD)
    assert 1 <= at.storage.tails <= 3


@pytest.mark.anyio
@pytest.mark.parametrize("victim", [0, 1, 500, 999])
async def test_whoever_is_cancelled_nobody_else_notices(victim: int) -> None:
    async with Setting() as at, anyio.create_task_group() as tasks:
        await at.say("one")
        at.storage.hold = True
        crowd = Crowd(at)
        crowd.start(tasks)
        await held_back(at)
        crowd.scopes[victim].cancel()
        await anyio.wait_all_tasks_blocked()
        crowd.let_go()

    assert crowd.got == [["one"]] * (CROWD - 1)
    assert at.storage.tails <= 2
    assert at.storage.most_under_way == 1


@pytest.mark.anyio
async def test_a_failing_load_fails_for_all_and_is_not_kept() -> None:
    async with Setting() as at, anyio.create_task_group() as tasks:
        await at.say("one")
        at.storage.hold = at.storage.fail = True
        crowd = Crowd(at)
        crowd.start(tasks)
        await held_back(at)
        crowd.let_go()
    async with at:
        at.storage.fail = False
        assert len(crowd.failed) == CROWD
        assert at.storage.tails == 1
        assert at.cache.statistics().sessions == 0
        assert await at.read() == ["one"]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [2, 10, 100])
async def test_appends_at_once_extend_the_tail_in_their_order(count: int) -> None:
    async with Setting() as at:
        await at.say("first")
        await at.read()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(at.say, str(number))
        since = at.since()

        cached = await at.read(50, "cached")

        assert since() == (1, 0)
        assert cached == await at.read(50, "fresh")
        assert at.storage.tails == 2


@pytest.mark.anyio
async def test_what_is_told_in_any_order_extends_the_tail() -> None:
    for seed in range(50):
        async with Setting() as at:
            await at.say("first")
            await at.read()
            told = await appended_behind_its_back(at, 8)
            random.Random(seed).shuffle(told)
            for appended, rows in told:
                at.cache.wrote(appended, rows)

            assert at.cache.peek("chat", 50) == await at.history.last("chat", 50, level="fresh")
            assert at.storage.tails == 2


@pytest.mark.anyio
async def test_appends_at_once_extend_the_tail_of_a_file(tmp_path: Path) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db"), TailCache()) as history:
        await history.record_message("chat", "user", "first")
        await history.last("chat", 100)
        loads = history.get_cache_stats().loads
        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(history.record_message, "chat", "user", str(number))

        cached = await history.last("chat", 100, level="cached")

        assert history.get_cache_stats().loads == loads
        assert cached == await history.last("chat", 100, level="fresh")


@pytest.mark.anyio
async def test_what_is_told_while_somebody_reads_leaves_no_gap() -> None:
    for seed in range(50):
        async with Setting() as at:
            await at.say("first")
            await at.read()
            told = await appended_behind_its_back(at, 8)
            random.Random(seed).shuffle(told)
            for number, (appended, rows) in enumerate(told, 1):
                at.cache.wrote(appended, rows)
                # A read never gives less than what was told, nor anything with a gap.
                seqs = [record.seq for record in await at.history.last("chat", level="cached")]
                assert seqs == list(range(1, len(seqs) + 1))
                assert number <= len(seqs)
            assert await at.read(50, "cached") == await at.read(50, "fresh")


async def appended_behind_its_back(at: Setting, count: int) -> list:  # type: ignore[type-arg]
    found = []
    for number in range(count):
        batch = at.history._batch("append", "chat", (Message.of("user", str(number)),), None, None)
        found.append((await at.storage.append(batch), batch.rows))
    return found


@pytest.mark.anyio
async def test_a_tail_with_a_gap_is_not_trusted() -> None:
    async with Setting() as at:
        await at.say("first")
        await at.read()
        told = await appended_behind_its_back(at, 2)
        at.cache.wrote(*told[1])

        assert at.cache.peek("chat", 1) is None
        assert await at.read(5, "cached") == ["first", "0", "1"]


@pytest.mark.anyio
async def test_an_append_in_another_epoch_drops_the_tail() -> None:
    async with Setting() as at:
        await at.say("first")
        await at.read()
        await at.other.delete_session("chat")
        told = await appended_behind_its_back(at, 1)

        at.cache.wrote(*told[0])

        assert at.cache.peek("chat", 1) is None
        assert await at.read(level="cached") == ["0"]


@pytest.mark.anyio
async def test_what_is_held_back_is_bounded() -> None:
    async with Setting() as at:
        await at.say("first")
        await at.read()
        for appended, rows in (await appended_behind_its_back(at, 600))[1:]:
            at.cache.wrote(appended, rows)

        assert at.cache.statistics().sessions == 0
        assert at.cache.statistics().bytes == 0
