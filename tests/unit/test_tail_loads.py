"""Loads of the tail cache: one at a time, handed over, never kept once a write overtook them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from asynchistory import StorageUnavailableError
from asynchistory.queries import Appended, Tail
from tests.unit.tail_setting import Setting

pytestmark = pytest.mark.anyio


@pytest.fixture
async def at() -> AsyncIterator[Setting]:
    async with Setting() as setting:
        yield setting


async def settle() -> None:
    """Let every task go on as far as it can: what they wait for is held by the test."""
    await anyio.wait_all_tasks_blocked()


class Readers:
    """Tasks that read, and what each of them got."""

    def __init__(self, at: Setting, tasks: anyio.abc.TaskGroup) -> None:
        self.at = at
        self.tasks = tasks
        self.got: dict[str, list[str]] = {}
        self.errors: dict[str, Exception] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def start(self, *names: str, level: Any = "validated") -> None:
        for name in names:
            self.tasks.start_soon(self._read, name, level, name=name)
            await settle()

    async def _read(self, name: str, level: Any) -> None:
        with anyio.CancelScope() as self.scopes[name]:
            try:
                self.got[name] = await self.at.read(level=level)
            except Exception as error:
                self.errors[name] = error


def release(at: Setting) -> None:
    at.storage.hold = False
    for event in at.storage.held:
        event.set()


# -- a slow load and a write


async def test_a_write_overtakes_a_slow_load(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("early")
        assert len(at.storage.held) == 1  # it has looked, and has not answered

        await at.say("two")
        await readers.start("late")

        assert len(at.storage.held) == 2, "the late reader joined a load from before the write"
        release(at)
    assert readers.got == {"early": ["one"], "late": ["one", "two"]}
    assert await at.read(level="cached") == ["one", "two"]


@pytest.mark.parametrize("level", ["validated", "cached", "fresh"])
async def test_what_a_write_overtook_is_not_kept(at: Setting, level: Any) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        await Readers(at, tasks).start("early", level=level)
        await at.say("two")
        release(at)

    assert at.cache.peek("chat", 1) is None
    assert await at.read(level="cached") == ["one", "two"]


async def test_a_deletion_overtakes_a_slow_load(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("early")
        await at.history.delete_session("chat")
        release(at)

    assert readers.got == {"early": ["one"]}
    assert at.cache.statistics().sessions == 0


async def test_another_process_that_overtakes_a_load_is_seen_at_the_default_level(
    at: Setting,
) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("early")
        await at.say("two", by=at.other)  # of which this cache is not told
        await readers.start("late")
        release(at)

    assert readers.got["late"] == ["one", "two"]
    assert await at.read() == ["one", "two"]


async def test_a_stale_fill_does_not_replace_a_newer_one(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("slow", level="fresh")
        at.storage.hold = False
        await at.say("two", by=at.other)
        assert await at.read() == ["one", "two"]
        release(at)

    assert readers.got == {"slow": ["one"]}
    assert await at.read(level="cached") == ["one", "two"]


async def test_a_fill_of_an_earlier_epoch_does_not_replace_a_later_one(at: Setting) -> None:
    await at.say("one", "two", "three")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        await Readers(at, tasks).start("slow", level="fresh")
        at.storage.hold = False
        await at.other.delete_session("chat")
        await at.say("new", by=at.other)
        assert await at.read() == ["new"]
        release(at)

    assert await at.read(level="cached") == ["new"]


class Interrupted:
    """A lock which, the first time that it is let go after ``arm()``, lets another thread in."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.other: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        other, self.other = self.other, None
        self.lock.release()
        if other is not None:
            other()


async def test_a_write_in_another_thread_between_a_load_and_its_fill(at: Setting) -> None:
    # The store has answered; what it said is outdated by a write before it is put in.
    await at.say("one")
    version = await at.storage.version("chat")
    assert version is not None
    lock = at.cache._lock = Interrupted(at.cache._lock)  # type: ignore[assignment]

    def write() -> None:
        home = at.storage._homes["chat"]
        home.rows.append(home.rows[0])
        home.session = type(home.session)(
            id="chat",
            created_at=home.session.created_at,
            updated_at=home.session.updated_at,
            seq=2,
            epoch=version.epoch,
        )
        appended = Appended(session_id="chat", epoch=version.epoch, first_seq=2, last_seq=2)
        at.cache.wrote(appended, [home.rows[1][1]])

    tail = at.storage.tail

    async def tail_then_interrupt(session_id: str, limit: int) -> Tail | None:
        found = await tail(session_id, limit)
        lock.other = write
        return found

    at.storage.tail = tail_then_interrupt  # type: ignore[method-assign]
    await at.read(level="fresh")

    assert await at.read(level="cached") == ["one", "one"]


# -- single flight


async def test_one_load_however_many_ask(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start(*map(str, range(20)))
        assert at.storage.tails == 1
        release(at)

    assert list(readers.got.values()) == [["one"]] * 20
    assert at.storage.most_under_way == 1


async def test_different_sessions_do_not_wait_for_each_other(at: Setting) -> None:
    await at.say("one")
    await at.history.record_message("other", "user", "x")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        await Readers(at, tasks).start("slow")
        at.storage.hold = False
        assert len(await at.history.last("other")) == 1
        release(at)


@pytest.mark.parametrize("followers", [1, 2, 5])
async def test_if_the_leader_is_cancelled_the_next_takes_over(at: Setting, followers: int) -> None:
    await at.say("one")
    at.storage.hold = True
    names = [str(number) for number in range(followers)]
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("leader", *names)
        readers.scopes["leader"].cancel()
        await at.storage.wait_for(2)
        await settle()

        assert at.storage.under_way == 1
        release(at)
    assert readers.got == {name: ["one"] for name in names}
    assert at.storage.tails == 2


@pytest.mark.parametrize("followers", [1, 2, 5])
async def test_who_comes_after_a_hand_over_joins_it(at: Setting, followers: int) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("leader", *map(str, range(followers)))
        readers.scopes["leader"].cancel()
        await at.storage.wait_for(2)
        await settle()

        await readers.start("newcomer")

        release(at)
    assert at.storage.tails == 2
    assert at.storage.most_under_way == 1
    assert readers.got["newcomer"] == ["one"]


async def test_leaders_cancelled_one_after_the_other(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start(*"abcdef")
        for number in range(2, 7):
            readers.scopes[str(at.storage.leaders[-1])].cancel()
            await at.storage.wait_for(number)
            await settle()
        release(at)

    assert sorted(map(str, at.storage.leaders)) == list("abcdef")
    assert readers.got == {str(at.storage.leaders[-1]): ["one"]}
    assert at.storage.most_under_way == 1


async def test_the_leader_and_its_heir_cancelled_at_once(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("leader", "heir", "third")
        readers.scopes["leader"].cancel()
        readers.scopes["heir"].cancel()
        await at.storage.wait_for(2)
        await settle()
        release(at)

    assert readers.got["third"] == ["one"]
    assert "leader" not in readers.got
    assert "heir" not in readers.got


async def test_a_cancelled_follower_disturbs_nobody(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("leader", "a", "b")
        readers.scopes["a"].cancel()
        await settle()
        assert at.storage.tails == 1
        release(at)

    assert readers.got == {"leader": ["one"], "b": ["one"]}


async def test_all_cancelled_leave_nothing_behind(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = True
    async with anyio.create_task_group() as tasks:
        await Readers(at, tasks).start("a", "b", "c")
        tasks.cancel_scope.cancel()

    release(at)
    assert await at.read() == ["one"]
    assert len(at.cache._flights) == 0


async def test_an_error_reaches_all_who_wait_and_is_not_kept(at: Setting) -> None:
    await at.say("one")
    at.storage.hold = at.storage.fail = True
    async with anyio.create_task_group() as tasks:
        readers = Readers(at, tasks)
        await readers.start("a", "b", "c")
        release(at)

    assert [type(error) for error in readers.errors.values()] == [StorageUnavailableError] * 3
    assert at.storage.tails == 1
    at.storage.fail = False
    assert await at.read() == ["one"]
