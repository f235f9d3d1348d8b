"""A replace, truncate, pop, fork or delete completes or is cancelled, never both.

Each is tried on a session of its own, which then is as it was, or as the change makes it, and
that as its caller was told. As in test_cancellation.py no clock is involved: a change is hit after
a number of turns of the loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress

import anyio
import anyio.lowlevel
import pytest

from asynchistory import AsyncHistoryManager, SessionNotFoundError, TailCache
from tests.contract.cancelling import Cancelled, no_stray_cancellation, some_turns, turns
from tests.contract.chats import LEVELS, fill, numbers, read_all, say, texts

pytestmark = pytest.mark.anyio

WritesHeld = Callable[[], AbstractContextManager[None]]
State = tuple[list[str] | None, list[str] | None]

#: So many cancelled changes a test.
TRIALS = 60
LENGTH = 4

CHANGES: dict[str, Callable[[AsyncHistoryManager, str], Awaitable[object]]] = {
    "replace": lambda history, name: history.replace(name, say("new")),
    "truncate": lambda history, name: history.truncate(name, 2),
    "pop": lambda history, name: history.pop(name),
    "fork": lambda history, name: history.fork(name, f"{name} fork", at_seq=3),
    "delete": lambda history, name: history.delete_session(name),
}
BEFORE: State = (numbers(LENGTH), None)
AFTER: dict[str, State] = {
    "replace": (["new"], None),
    "truncate": (numbers(2), None),
    "pop": (numbers(3), None),
    "fork": (numbers(LENGTH), numbers(3)),
    "delete": (None, None),
}


class Trials:
    """Changes of any kinds, each on a session of its own, and what each told its caller."""

    def __init__(self, history: AsyncHistoryManager, *kinds: str) -> None:
        self.history = history
        self.kind = {f"{number} {kind}": kind for number, kind in enumerate(kinds)}
        self.returned: set[str] = set()
        self.cancelled: set[str] = set()

    async def prepare(self) -> None:
        async with anyio.create_task_group() as tasks:
            for name in self.kind:
                tasks.start_soon(fill, self.history, name, LENGTH)

    async def change(self, name: str) -> None:
        try:
            await CHANGES[self.kind[name]](self.history, name)
        except Cancelled:
            self.cancelled.add(name)
            raise
        self.returned.add(name)

    async def check(self) -> None:
        """Hold what callers were told against what is stored."""
        for name, kind in self.kind.items():
            wanted = AFTER[kind] if name in self.returned else BEFORE
            assert await self.state(name) == wanted, name
        assert not self.returned & self.cancelled

    async def state(self, name: str) -> State:
        return await self.held(name), await self.held(f"{name} fork")

    async def held(self, name: str) -> list[str] | None:
        try:
            return await texts(self.history, name)
        except SessionNotFoundError:
            return None


async def trials_of(history: AsyncHistoryManager, *kinds: str) -> Trials:
    trials = Trials(history, *kinds)
    await trials.prepare()
    return trials


@pytest.fixture(params=sorted(CHANGES))
async def trials(history: AsyncHistoryManager, request: pytest.FixtureRequest) -> Trials:
    """As many sessions as a test needs, all for changes of one kind."""
    return await trials_of(history, *[str(request.param)] * TRIALS)


@pytest.fixture
async def all_kinds(history: AsyncHistoryManager) -> Trials:
    """Sessions for changes of all kinds, mixed."""
    return await trials_of(history, *sorted(CHANGES) * 40)


@pytest.fixture
def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("a way of cancelling that asyncio alone has")


async def test_changes_in_scopes_that_are_cancelled(trials: Trials) -> None:
    draw = random.Random(1)

    async def work(name: str, scope: anyio.CancelScope, done: anyio.Event) -> None:
        with scope:
            await trials.change(name)
        await no_stray_cancellation()
        done.set()

    async with anyio.create_task_group() as tasks:
        for name in trials.kind:
            scope, done = anyio.CancelScope(), anyio.Event()
            tasks.start_soon(work, name, scope, done)
            await turns(some_turns(draw))
            scope.cancel()
            await done.wait()

    await trials.check()
    assert len(trials.returned | trials.cancelled) == TRIALS


@pytest.mark.usefixtures("asyncio_only")
async def test_changes_in_tasks_that_are_cancelled(trials: Trials) -> None:
    draw = random.Random(2)
    outcomes: Counter[tuple[bool, bool]] = Counter()

    async def work(name: str) -> None:
        later = False
        try:
            await trials.change(name)
            later = True
            await asyncio.Event().wait()  # never set: only the cancellation ends it
        finally:
            outcomes[name in trials.returned, later] += 1

    for name in trials.kind:
        task = asyncio.create_task(work(name))
        await turns(1 + some_turns(draw))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    await trials.check()
    assert set(outcomes) <= {(False, False), (True, True)}
    assert outcomes.total() == TRIALS


@pytest.mark.usefixtures("asyncio_only")
async def test_changes_under_a_timeout_that_expires(trials: Trials) -> None:
    draw = random.Random(3)
    current = asyncio.current_task()
    assert current is not None

    async def expire(scope: asyncio.Timeout, after: int) -> None:
        await turns(after)
        with suppress(RuntimeError):  # the block has ended
            scope.reschedule(asyncio.get_running_loop().time())

    for name in trials.kind:
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as scope:
                expiry = asyncio.create_task(expire(scope, some_turns(draw)))
                await trials.change(name)
        assert current.cancelling() == 0
        await no_stray_cancellation()
        await expiry

    await trials.check()


async def test_a_change_in_a_scope_that_is_cancelled_already(trials: Trials) -> None:
    for name in trials.kind:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await trials.change(name)
        # AnyIO cancels an asyncio task a turn later, by when a change may have completed.
        assert (name in trials.returned) != scope.cancelled_caught

    await trials.check()


async def test_a_shielded_change_is_not_cancelled(trials: Trials) -> None:
    draw = random.Random(4)

    async def work(name: str) -> None:
        with anyio.CancelScope(shield=True):
            await trials.change(name)

    for name in list(trials.kind)[:15]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, name)
            await turns(1 + some_turns(draw))
            tasks.cancel_scope.cancel()

    await trials.check()
    assert trials.cancelled == set()


async def cancel_after(scope: anyio.CancelScope, after: int) -> None:
    await turns(after)
    scope.cancel()


async def change_unless_cancelled(trials: Trials, name: str, after: int | None) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            if after is not None:
                tasks.start_soon(cancel_after, scope, after)
            await trials.change(name)
            tasks.cancel_scope.cancel()
    await no_stray_cancellation()


async def test_a_storm_of_changes(all_kinds: Trials) -> None:
    draw = random.Random(5)
    async with anyio.create_task_group() as tasks:
        for name in all_kinds.kind:
            after = None if draw.random() < 0.2 else draw.randrange(60)
            tasks.start_soon(change_unless_cancelled, all_kinds, name, after)

    await all_kinds.check()
    assert all_kinds.returned


async def test_a_storm_while_the_store_is_held_now_and_then(
    all_kinds: Trials, writes_held: WritesHeld
) -> None:
    draw = random.Random(6)
    left = list(all_kinds.kind)
    while left:
        some, left = left[:25], left[25:]
        async with anyio.create_task_group() as tasks:
            with writes_held():
                for name in some:
                    after = None if draw.random() < 0.2 else draw.randrange(60)
                    tasks.start_soon(change_unless_cancelled, all_kinds, name, after)
                await turns(draw.randrange(60))

    await all_kinds.check()
    assert len(all_kinds.returned) > 20
    assert len(all_kinds.cancelled) > 20


async def test_what_waits_in_the_queue_is_cancelled_at_once(
    trials: Trials, writes_held: WritesHeld
) -> None:
    with writes_held():
        async with anyio.create_task_group() as tasks:
            for name in trials.kind:
                tasks.start_soon(trials.change, name)
            await turns(20)
            tasks.cancel_scope.cancel()
        assert trials.cancelled == set(trials.kind)

    await trials.check()


async def test_changes_and_appends_of_one_session_in_a_storm(history: AsyncHistoryManager) -> None:
    """Whatever is cut and cancelled, what is left has no gap and whole batches."""
    draw = random.Random(7)
    history = AsyncHistoryManager(history.storage, TailCache())
    await fill(history, "chat", 3)

    async def work(number: int, after: int | None) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                if after is not None:
                    tasks.start_soon(cancel_after, scope, after)
                await choose(number)
                tasks.cancel_scope.cancel()

    async def choose(number: int) -> None:
        pair = [say(f"{number}.{half}") for half in "ab"]
        match number % 4:
            case 0 | 1:
                await history.append("chat", *pair)
            case 2:
                await history.pop("chat", 1)
            case _:
                await history.replace("chat", *pair)

    for start in range(0, 200, 20):
        async with anyio.create_task_group() as tasks:
            for number in range(start, start + 20):
                after = None if draw.random() < 0.3 else draw.randrange(60)
                tasks.start_soon(work, number, after)
        found = await texts(history, "chat")
        halves = [text.partition(".")[2] for text in found if "." in text]
        assert halves[:1] != ["b"], "the second half of a batch without its first"
        stored = await read_all(history, "chat", level="fresh")
        for level in LEVELS:
            assert await history.last("chat", 10_000, level=level) == stored


# -- trying again with a key


async def test_a_key_makes_a_cancelled_pop_safe_to_repeat(history: AsyncHistoryManager) -> None:
    draw = random.Random(8)
    await fill(history, "chat", TRIALS)
    handed_out: list[str] = []

    for number in range(TRIALS // 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: history.pop("chat", idempotency_key=str(number)))  # noqa: B023
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        popped = await history.pop("chat", idempotency_key=str(number))
        handed_out += [record.text for record in popped.records]

    assert handed_out == numbers(TRIALS)[::-1][: TRIALS // 2]
    assert await texts(history, "chat") == numbers(TRIALS // 2)


async def test_a_key_makes_a_cancelled_replace_safe_to_repeat(
    history: AsyncHistoryManager,
) -> None:
    draw = random.Random(9)
    for number in range(TRIALS // 2):
        key, text = f"k{number}", str(number)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: history.replace("chat", say(text), idempotency_key=key))  # noqa: B023
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        first = await history.replace("chat", say(text), idempotency_key=key)
        await history.append("chat", say("more"))
        again = await history.replace("chat", say(text), idempotency_key=key)
        assert (again.replayed, again.epoch) == (True, first.epoch)
        assert await texts(history, "chat") == [text, "more"]


# -- what works in several transactions


@pytest.mark.parametrize("way", ["prune", "erase"])
async def test_a_cancelled_erasure_has_deleted_whole_sessions_and_can_be_ended(
    history: AsyncHistoryManager, way: str
) -> None:
    draw = random.Random(10)
    for _ in range(10):
        for number in range(5):
            await fill(history, f"chat {number}", 3, user_id="ann")
        moment = max(item.updated_at for item in await history.list_sessions())
        await history.create_session("kept", user_id="bob", exist_ok=True)

        async def remove(older_than: object = moment) -> object:
            return await (
                history.prune(older_than) if way == "prune" else history.erase_user("ann")
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(remove)
            await turns(some_turns(draw))
            tasks.cancel_scope.cancel()
        for session in await history.list_sessions():
            assert session.id == "kept" or await texts(history, session.id) == numbers(3)
        await history.erase_user("ann")
        assert [item.id for item in await history.list_sessions()] == ["kept"]
        await history.delete_session("kept")
    assert (await history.count()).records == 0
