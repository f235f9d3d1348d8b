"""One manager, used from several event loops of both kinds at once, and its lifetime."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    HistoryQuery,
    Message,
    NotOpenError,
    Storage,
)

BACKENDS = ("asyncio", "trio", "asyncio", "trio")


def on_loops(work: Callable[[int], Awaitable[None]]) -> None:
    """Run ``work(number)`` in threads, each with an event loop of its own, all at once."""
    start = threading.Barrier(len(BACKENDS))
    errors: list[BaseException] = []

    def body(number: int, backend: str) -> None:
        async def main() -> None:
            await anyio.to_thread.run_sync(start.wait)
            await work(number)

        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=body, args=(number, backend), daemon=True)
        for number, backend in enumerate(BACKENDS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a loop hangs"
    assert errors == []


def test_several_loops_write_and_read_through_one_manager(
    make_storage: Callable[[], Storage],
) -> None:
    history = AsyncHistoryManager(make_storage())

    async def write(number: int) -> None:
        async with history, anyio.create_task_group() as tasks:
            for task in range(5):
                tasks.start_soon(append, number, task)

    async def append(number: int, task: int) -> None:
        for index in range(10):
            message = Message.of("user", f"{number}.{task}.{index}")
            appended = await history.append("shared", message)
            # What was written is read, from the cache or not, on every loop.
            records = await history.last("shared", 500)
            assert records[appended.first_seq - 1].text == message.text

    on_loops(write)

    async def check() -> None:
        async with history:
            page = await history.query_history(HistoryQuery("shared", limit=1000), level="fresh")
            cached = await history.last("shared", 1000, level="cached")
        assert [record.seq for record in page] == list(range(1, 201))
        assert len({record.text for record in page}) == 200
        assert cached == page.records

    anyio.run(check)


def test_an_event_loop_may_end_and_another_go_on(make_storage: Callable[[], Storage]) -> None:
    history = AsyncHistoryManager(make_storage())
    done = threading.Event()
    ready = threading.Event()

    async def hold_open() -> None:
        async with history:
            ready.set()
            await anyio.to_thread.run_sync(done.wait)

    holder = threading.Thread(target=anyio.run, args=(hold_open,))
    holder.start()
    assert ready.wait(30)
    try:
        for number, backend in enumerate(BACKENDS):
            record = anyio.run(history.record_message, "chat", "user", "x", backend=backend)
            assert record.seq == number + 1
    finally:
        done.set()
        holder.join(30)
    assert not holder.is_alive()


def test_one_key_from_several_loops_is_stored_once(make_storage: Callable[[], Storage]) -> None:
    history = AsyncHistoryManager(make_storage())
    answers = []

    async def write(number: int) -> None:
        async with history:
            answers.append(
                await history.append("chat", Message.of("user", "x"), idempotency_key="k")
            )

    on_loops(write)

    assert sorted(answer.replayed for answer in answers) == [False, True, True, True]
    assert {(answer.first_seq, answer.last_seq) for answer in answers} == {(1, 1)}


# -- lifetime


@pytest.mark.anyio
async def test_nothing_works_outside_of_the_lifetime(make_storage: Callable[[], Storage]) -> None:
    storage = make_storage()
    history = AsyncHistoryManager(storage)

    async def refused() -> None:
        for call in (
            lambda: history.append("chat", Message.of("user", "x")),
            lambda: history.last("chat"),
            lambda: history.query_history(HistoryQuery("chat")),
            lambda: history.search("x"),
            lambda: history.create_session("chat"),
            lambda: history.get_session("chat"),
            lambda: history.list_sessions(),
            lambda: history.update_session("chat", title="x"),
            lambda: history.delete_session("chat"),
            lambda: history.get_session_summary("chat"),
            lambda: history.count(),
            lambda: history.get_token_statistics(),
            lambda: history.get_cost_statistics(),
            lambda: history.get_llm_statistics(),
            lambda: storage.version("chat"),
            lambda: storage.tail("chat", 1),
        ):
            with pytest.raises(NotOpenError):
                await call()

    await refused()
    async with history:
        await history.append("chat", Message.of("user", "x"))
    await refused()


@pytest.mark.anyio
async def test_a_store_stays_open_until_its_last_opener_leaves(
    make_storage: Callable[[], Storage],
) -> None:
    storage = make_storage()
    history = AsyncHistoryManager(storage)

    async with storage:
        async with history:
            await history.append("chat", Message.of("user", "one"))
        await history.append("chat", Message.of("user", "two"))
        async with AsyncHistoryManager(storage) as other:
            assert len(await other.last("chat")) == 2

    with pytest.raises(NotOpenError):
        await history.last("chat")


@pytest.mark.anyio
async def test_closing_waits_for_the_writes_under_way(make_storage: Callable[[], Storage]) -> None:
    storage = make_storage()
    stored: list[int] = []
    refused: list[int] = []

    async def write(number: int) -> None:
        try:
            await history.append("chat", Message.of("user", str(number)))
        except NotOpenError:
            refused.append(number)
        else:
            stored.append(number)

    async with AsyncHistoryManager(storage) as history, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(write, number)
        await anyio.lowlevel.checkpoint()
        await storage.aclose()
        await storage.open()  # for the block that we are in

    async with AsyncHistoryManager(make_storage()) as history:
        found = await history.last("chat", 100) if stored else ()
    assert sorted(record.text for record in found) == sorted(map(str, stored))
    assert len(stored) + len(refused) == 50


@pytest.mark.anyio
async def test_two_managers_over_one_store_share_its_cache(storage: Storage) -> None:
    one, other = AsyncHistoryManager(storage), AsyncHistoryManager(storage)

    await one.append("chat", Message.of("user", "x"))
    await one.last("chat")
    await other.last("chat")

    assert one.cache is other.cache
    assert one.cache.statistics().hits == 1
