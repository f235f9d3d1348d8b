"""Watching: each record once, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    InvalidInputError,
    InvalidQueryError,
    NotOpenError,
    SessionNotFoundError,
    Storage,
    TailCache,
)
from asynchistory.manager import watching
from asynchistory.storage import announcements
from asynchistory.storage.announcements import announcements_of
from tests.contract.chats import LEVELS, add, fill, say, usage
from tests.contract.watching import has_none, take, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def nothing_is_left(storage: Storage) -> AsyncIterator[None]:
    yield
    assert len(announcements_of(storage)) == 0


# -- where it begins


async def test_new_records_as_they_are_stored(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)
    found: list[Any] = []

    async def write() -> None:
        await history.record_message("chat", "user", "3")
        await history.append("chat", say("4"), usage("r", 1), say("6"))

    async with history.watch("chat") as records, anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        with anyio.fail_after(20):
            async for record in records:
                found.append(record)
                if len(found) == 4:
                    break

    assert found == list(await history.last("chat", 4))
    assert [record.seq for record in found] == [3, 4, 5, 6]


async def test_where_it_begins(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    session = await history.get_session("chat")

    for after_seq, wanted in ((0, [1, 2, 3, 4, 5, 6]), (3, [4, 5, 6]), (5, [6]), (None, [6])):
        await history.truncate("chat", 5)
        async with history.watch("chat", after_seq=after_seq) as records:
            assert records.seq == (5 if after_seq is None else after_seq)
            assert records.epoch == (await history.get_session("chat")).epoch
            await add(history, "chat", "6")
            assert await take(records, len(wanted)) == wanted
            assert records.seq == 6
            assert await has_none(records)
    assert session.epoch != records.epoch


async def test_an_empty_session_can_be_watched(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")

    async with history.watch("chat") as records:
        await add(history, "chat", "1")
        assert await take(records, 1) == [1]


async def test_going_on_from_an_earlier_watch(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    async with history.watch("chat", after_seq=0) as first:
        assert await take(first, 3) == [1, 2, 3]

    async with history.watch("chat", after_seq=first.seq, epoch=first.epoch) as second:
        assert await take(second, 2) == [4, 5]

    await history.truncate("chat", 4)
    with pytest.raises(EpochChangedError, match="watch it anew"):
        async with history.watch("chat", after_seq=3, epoch=first.epoch):
            pass


async def test_what_cannot_be_watched(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    with pytest.raises(SessionNotFoundError, match="create_session"):
        async with history.watch("none"):
            pass
    with pytest.raises(InvalidQueryError, match="stands at seq 5"):
        async with history.watch("chat", after_seq=6):
            pass
    for options in ({"after_seq": -1}, {"after_seq": "1"}, {"epoch": 1.5}):
        with pytest.raises(InvalidInputError):
            history.watch("chat", **options)
    with pytest.raises(NotOpenError):
        await anext(history.watch("chat"))
    async with history.watch("chat", after_seq=0) as records:
        await anext(records)
    with pytest.raises(NotOpenError):
        await anext(records)


# -- how it ends


async def test_a_rewritten_session_ends_it(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "POLL", 1000)  # at once, and not when it is looked

    async def replace() -> None:
        await history.replace("chat", *map(say, "abcdefg"))

    changes = [
        lambda: history.truncate("chat", 2),
        lambda: history.pop("chat"),
        replace,
    ]
    for change in changes:
        await history.delete_session("chat")
        await fill(history, "chat", 5)
        async with history.watch("chat", after_seq=4) as records:
            assert await take(records, 1) == [5]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(change)
                with anyio.fail_after(20), pytest.raises(EpochChangedError, match="watch it anew"):
                    await anext(records)
            # It stays so.
            with pytest.raises(EpochChangedError):
                await anext(records)


async def test_a_deleted_session_ends_it(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "POLL", 1000)
    await fill(history, "chat", 5)
    async with history.watch("chat") as records, anyio.create_task_group() as tasks:
        tasks.start_soon(history.delete_session, "chat")
        with anyio.fail_after(20), pytest.raises(SessionNotFoundError):
            await anext(records)

        await fill(history, "chat", 9)
        with pytest.raises(EpochChangedError):
            await anext(records)


async def test_what_removes_sessions_by_the_dozen_is_noticed(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "POLL", 1000)
    await fill(history, "chat", 1, user_id="ann")
    async with history.watch("chat") as records, anyio.create_task_group() as tasks:
        tasks.start_soon(history.erase_user, "ann")
        with anyio.fail_after(20), pytest.raises(SessionNotFoundError):
            await anext(records)


async def test_closing_the_history_ends_it(history: AsyncHistoryManager) -> None:
    storage = history.storage
    await fill(history, "chat", 1)
    ended = []

    async def read() -> None:
        async with history.watch("chat") as records:
            with pytest.raises(NotOpenError):
                await anext(records)
        ended.append(records)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
            await until(lambda: len(announcements_of(storage)) == 4)
            await storage.aclose()
    await storage.open()  # for the block that we are in
    assert len(ended) == 3


# -- nothing is lost, nothing comes twice


async def test_a_slow_reader_gets_everything(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "READ_AHEAD", 7)
    await history.create_session("chat")
    async with history.watch("chat") as records:
        found = []
        for number in range(1, 41):
            await add(history, "chat", *["x"] * number)
            found += await take(records, number // 2)
            assert len(records._ahead) < 7
        found += await take(records, 820 - len(found))
        assert found == list(range(1, 821))
        assert await has_none(records)


async def test_many_readers_and_writers(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")
    found: list[list[int]] = []

    async def read() -> None:
        async with history.watch("chat") as records:
            ready.append(True)
            found.append(await take(records, 60))

    async def write() -> None:
        for _ in range(10):
            await history.append("chat", say("a"), say("b"))

    ready: list[bool] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(read)
        await until(lambda: len(ready) == 10)
        for _ in range(3):
            tasks.start_soon(write)

    assert found == [list(range(1, 61))] * 10


@pytest.mark.parametrize("level", LEVELS)
async def test_what_another_manager_writes_arrives_at_every_level(
    storage: Storage, level: Any
) -> None:
    history = AsyncHistoryManager(storage, TailCache(), level=level)
    other = AsyncHistoryManager(storage, TailCache())
    await fill(history, "chat", 3)
    await history.last("chat")
    async with history.watch("chat", after_seq=1) as records:
        assert await take(records, 2) == [2, 3]
        await add(other, "chat", "4", "5")
        assert await take(records, 2) == [4, 5]


async def test_what_goes_past_the_managers_is_found_by_looking(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As another process's writes are, which nobody announces here.
    monkeypatch.setattr(announcements_of(history.storage), "announce", lambda _session_id: None)
    await history.create_session("chat")
    async with history.watch("chat") as records, anyio.create_task_group() as tasks:
        for number in range(1, 6):
            tasks.start_soon(add, history, "chat", "x")
            assert await take(records, 1) == [number]


async def test_a_wait_can_be_given_up_and_begun_again(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")
    found: list[int] = []
    async with history.watch("chat") as records, anyio.create_task_group() as tasks:

        async def write() -> None:
            for _ in range(100):
                await add(history, "chat", "x")

        tasks.start_soon(write)
        turns = 0
        with anyio.fail_after(60):
            while len(found) < 100:
                turns += 1
                with anyio.move_on_after(0.0002 * (turns % 7)):
                    found.append((await anext(records)).seq)
                await anyio.lowlevel.checkpoint()
    assert found == list(range(1, 101))


async def test_a_watch_can_be_entered_again(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    watch = history.watch("chat", after_seq=1)

    for _ in range(2):
        async with watch as records:
            assert await take(records, 1) == [2]


async def test_cancelled_it_hands_out_nothing_and_loses_nothing(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    async with history.watch("chat", after_seq=0) as records:
        await anext(records)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(records)
        assert scope.cancelled_caught
        assert await take(records, 4) == [2, 3, 4, 5]


async def test_what_is_at_hand_does_not_keep_the_loop_busy(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3000)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        async with history.watch("chat", after_seq=0) as records:
            await take(records, 3000)
        assert turns > 20, "it reads a hundred at a time"
        tasks.cancel_scope.cancel()
