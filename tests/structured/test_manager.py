"""The manager under structured concurrency: nurseries, deadlines, virtual time. In memory alone:
a virtual clock would jump ahead of a thread that works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from asynchistory import (
    AsyncHistoryManager,
    HistoryQuery,
    MemoryStorage,
    Message,
    SequenceConflictError,
    TailCache,
    Version,
)
from asynchistory.queries import Tail

pytestmark = pytest.mark.trio


class DistantStorage(MemoryStorage):
    """A store whose reads take a virtual minute."""

    def __init__(self) -> None:
        super().__init__()
        self.tails = 0

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        self.tails += 1
        await trio.sleep(60)
        return await super().tail(session_id, limit)


@pytest.fixture
async def history() -> AsyncIterator[AsyncHistoryManager]:
    async with AsyncHistoryManager(DistantStorage(), TailCache(clock=trio.current_time)) as history:
        yield history


async def test_an_error_in_a_nursery_cancels_what_was_not_stored(
    history: AsyncHistoryManager,
) -> None:
    stored: list[str] = []

    async def write(name: str, sequence: trio.testing.Sequencer, turn: int) -> None:
        async with sequence(turn):
            await history.record_message("chat", "user", name)
            stored.append(name)

    async def fail(sequence: trio.testing.Sequencer) -> None:
        async with sequence(1):
            await history.append("chat", Message.of("user", "x"), expected_seq=99)

    sequence = trio.testing.Sequencer()
    with pytest.RaisesGroup(SequenceConflictError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, "before", sequence, 0)
            nursery.start_soon(fail, sequence)
            nursery.start_soon(write, "after", sequence, 2)

    page = await history.query_history(HistoryQuery("chat"), level="fresh")
    assert [record.text for record in page] == stored == ["before"]


async def test_a_deadline_ends_a_slow_read_and_leaves_the_cache_whole(
    history: AsyncHistoryManager, autojump_clock: trio.testing.MockClock
) -> None:
    await history.record_message("chat", "user", "one")
    start = trio.current_time()

    with trio.move_on_after(10) as scope:
        await history.last("chat")

    assert scope.cancelled_caught
    assert trio.current_time() == start + 10
    assert [record.text for record in await history.last("chat")] == ["one"]
    assert trio.current_time() == start + 70


async def test_readers_with_different_deadlines_share_one_load(
    history: AsyncHistoryManager, autojump_clock: trio.testing.MockClock
) -> None:
    await history.record_message("chat", "user", "one")
    got: list[float] = []

    async def read(deadline: float) -> None:
        with trio.move_on_after(deadline):
            await history.last("chat")
            got.append(deadline)

    async with trio.open_nursery() as nursery:
        for deadline in (30, 100, 200, 300):
            nursery.start_soon(read, deadline)

    assert isinstance(history.storage, DistantStorage)
    # One load; had the reader with 30 s led it, a second one.
    assert history.storage.tails <= 2
    assert sorted(got) == [100, 200, 300]


async def test_a_shielded_write_is_stored_when_its_nursery_is_cancelled(
    history: AsyncHistoryManager,
) -> None:
    async def work(task_status: trio.TaskStatus[None]) -> None:
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await history.record_message("chat", "assistant", "interrupted")

    async with trio.open_nursery() as nursery:
        await nursery.start(work)
        nursery.cancel_scope.cancel()

    assert await history.storage.version("chat") == Version(1, 1)


async def test_cached_reads_expire_in_virtual_time(
    history: AsyncHistoryManager, autojump_clock: trio.testing.MockClock
) -> None:
    await history.record_message("chat", "user", "one")
    await history.last("chat", level="cached")
    other = AsyncHistoryManager(history.storage, TailCache())
    await other.record_message("chat", "user", "two")

    assert len(await history.last("chat", level="cached")) == 1
    await trio.sleep(2 * history.cache.ttl)
    assert len(await history.last("chat", level="cached")) == 2
