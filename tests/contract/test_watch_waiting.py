"""Watching: at once, without burning the processor, and from wherever a record comes."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Message,
    SessionNotFoundError,
    Storage,
    StorageUnavailableError,
    Version,
)
from asynchistory.storage import announcements
from asynchistory.storage.announcements import announcements_of
from tests.contract.chats import add
from tests.contract.watching import has_none, take, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def nothing_is_left(storage: Storage) -> AsyncIterator[None]:
    yield
    assert len(announcements_of(storage)) == 0


# -- at once, and without burning the processor


async def test_it_is_told_and_does_not_look(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "POLL", 1000)
    await history.create_session("chat")
    async with history.watch("chat") as records, anyio.create_task_group() as tasks:
        for number in range(1, 21):
            tasks.start_soon(add, history, "chat", "x")
            assert await take(records, 1) == [number]


async def test_a_false_alarm_costs_one_look(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as of an append that was cancelled before it was stored.
    monkeypatch.setattr(announcements, "POLL", 1000)
    await history.create_session("chat")
    version = history.storage.version
    looks = 0

    async def counted(session_id: str) -> Version | None:
        nonlocal looks
        looks += 1
        return await version(session_id)

    async def read() -> None:
        async with history.watch("chat") as records:
            await anext(records)

    monkeypatch.setattr(history.storage, "version", counted)
    told = announcements_of(history.storage)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(read)
        await until(lambda: len(told) == 3)
        for _ in range(3):
            looks = 0
            told.announce("chat")
            await anyio.sleep(0.05)
            assert 2 <= looks <= 4
        await add(history, "chat", "x")


async def test_a_thousand_idle_readers_share_their_looks(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        await history.create_session(f"chat-{number}")
    looks = 0
    version = history.storage.version

    async def counted(session_id: str) -> Version | None:
        nonlocal looks
        looks += 1
        return await version(session_id)

    async def read(number: int) -> None:
        async with history.watch(f"chat-{number % 10}") as records:
            with pytest.raises(SessionNotFoundError):
                await anext(records)

    monkeypatch.setattr(history.storage, "version", counted)
    async with anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(read, number)
        await until(lambda: len(announcements_of(history.storage)) == 1001 and looks > 2000)
        looks, start = 0, time.monotonic()
        await anyio.sleep(0.5)
        # Where a server tells what changes, a round comes once a second.
        await until(lambda: looks >= 10)
        passed = time.monotonic() - start
        # Twenty rounds a second over ten sessions, however many watch them.
        assert looks <= 10 * (passed / 0.05 + 2)
        for number in range(10):
            await history.delete_session(f"chat-{number}")
    assert len(announcements_of(history.storage)) == 0


async def test_cancelled_readers_leave_nothing(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")

    async def read(kind: int) -> None:
        async with history.watch("chat") as records:
            with anyio.move_on_after(kind * 0.002 if kind % 3 else None):
                await anext(records)

    for _ in range(4):
        async with anyio.create_task_group() as tasks:
            for number in range(250):
                tasks.start_soon(read, number)
            await anyio.sleep(0.2)
            tasks.cancel_scope.cancel()
        assert len(announcements_of(history.storage)) == 0


async def test_when_the_one_that_looks_leaves_another_does(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.create_session("chat")
    arrived: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(20)]

    async def read(number: int) -> None:
        with scopes[number]:
            async with history.watch("chat") as records:
                await anext(records)
                arrived.append(number)

    monkeypatch.setattr(announcements_of(history.storage), "announce", lambda _session_id: None)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(read, number)
            await until(lambda: len(announcements_of(history.storage)) == 21)
            # Two at once: the heir of the first is cancelled before it is told.
            for number in range(0, 18, 2):
                scopes[number].cancel()
                scopes[number + 1].cancel()
                await anyio.sleep(0.02)
            await add(history, "chat", "x")
    assert sorted(arrived) == [18, 19]


async def test_a_look_that_fails_is_told_to_whom_it_concerns(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = history.storage.version
    broken = False
    failed = []

    async def sometimes(session_id: str) -> Version | None:
        if broken and session_id == "bad":
            raise StorageUnavailableError("no disk")
        return await version(session_id)

    async def read(name: str) -> None:
        async with history.watch(name) as records:
            try:
                await anext(records)
            except StorageUnavailableError:
                failed.append(name)

    monkeypatch.setattr(history.storage, "version", sometimes)
    for name in ("good", "bad"):
        await history.create_session(name)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for name in ("good", "bad", "good", "bad"):
                tasks.start_soon(read, name)
            await until(lambda: len(announcements_of(history.storage)) == 5)
            broken = True
            await until(lambda: failed == ["bad", "bad"])
            await add(history, "good", "x")
    assert failed == ["bad", "bad"]


# -- other loops and threads


async def test_readers_in_other_event_loops(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")
    found: dict[int, list[int]] = {}
    ready = threading.Semaphore(0)

    def loop(number: int, backend: str) -> None:
        async def main() -> None:
            async with history.watch("chat") as records:
                ready.release()
                found[number] = await take(records, 50)

        anyio.run(main, backend=backend)

    threads = [
        threading.Thread(target=loop, args=(number, backend), daemon=True)
        for number, backend in enumerate(("asyncio", "trio", "asyncio", "trio"))
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        await anyio.to_thread.run_sync(ready.acquire)
    for _ in range(50):
        await add(history, "chat", "x")
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 20)
    assert found == {number: list(range(1, 51)) for number in range(4)}


async def test_a_loop_that_is_gone_does_not_disturb(history: AsyncHistoryManager) -> None:
    await history.create_session("chat")

    def loop(backend: str) -> None:
        async def main() -> None:
            async with history.watch("chat") as records:
                with anyio.move_on_after(0.01):
                    await anext(records)

        anyio.run(main, backend=backend)

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(loop, backend)
    gc.collect()
    async with history.watch("chat") as records:
        await add(history, "chat", "x")
        assert await take(records, 1) == [1]


# -- other processes

WRITER = """
import sys, time, anyio
from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
async def main():
    async with AsyncHistoryManager(SQLiteStorage(sys.argv[1])) as history:
        for line in sys.stdin:
            size, batch = map(int, line.split())
            for _ in range(size // batch):
                stored = await history.append(
                    "chat", *[Message.of("user", str(time.time_ns()))] * batch
                )
            print(stored.last_seq, flush=True)
anyio.run(main, backend=sys.argv[2])
"""


async def test_records_of_another_process(
    history: AsyncHistoryManager, store: str, tmp_path: Path, anyio_backend_name: str
) -> None:
    if store != "sqlite":
        pytest.skip(f"the {store} store is one process's")
    await history.create_session("chat")
    late: list[float] = []
    command = [sys.executable, "-c", WRITER, str(tmp_path / "history.db"), anyio_backend_name]
    async with (
        await anyio.open_process(command, stderr=subprocess.PIPE) as process,
        history.watch("chat") as records,
    ):
        assert process.stdin is not None
        count = 0
        for size, batch in [(1, 1)] * 10 + [(100, 1), (1000, 1000), (500, 5)]:
            await process.stdin.send(f"{size} {batch}\n".encode())
            with anyio.fail_after(60):
                for _ in range(size):
                    record = await anext(records)
                    count += 1
                    assert record.seq == count
                    assert isinstance(record, Message)
                    if size == 1:
                        late.append(time.time() - int(record.text) / 1e9)
        assert await has_none(records)
        await process.stdin.aclose()
        assert await process.wait() == 0
    assert count == 1610
    # From before its commit to our reading it; a busy machine holds up most of them.
    assert sorted(late)[2] < 0.1, late
