"""Event loops that end while the PostgreSQL store is at work in them, and others that go on."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from asynchistory import (
    AsyncHistoryManager,
    OutcomeUnknownError,
    PostgresStorage,
    StorageUnavailableError,
)
from asynchistory.runs import start_task
from tests.contract.archiving import say
from tests.contract.watching import until
from tests.faults.proxy import Proxy
from tests.postgres import connections, texts


def stored(url: str) -> list[str]:
    async def read() -> list[str]:
        async with AsyncHistoryManager(PostgresStorage(url), level="fresh") as history:
            return await texts(history)

    return anyio.run(read)


async def open_one_in_vain(storage: PostgresStorage, proxy: Proxy) -> None:
    """Leave a connection behind that is being opened, and for which nobody waits any more."""
    proxy.refuse(True)  # what is open already
    proxy.silence(True)
    proxy.refuse(False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(storage.version, "chat")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


def test_a_loop_may_end_while_a_connection_is_opened(
    cut: tuple[str, Proxy], anyio_backend_name: str
) -> None:
    address, proxy = cut
    storage = PostgresStorage(address)

    async def leave() -> None:
        await storage.open()
        await open_one_in_vain(storage, proxy)

    async def stay() -> None:
        assert await storage.version("chat") is None
        await storage.aclose()

    anyio.run(leave, backend=anyio_backend_name)
    proxy.silence(False)
    anyio.run(stay, backend=anyio_backend_name)


def test_who_waits_for_a_connection_when_the_loop_ends_is_told(
    cut: tuple[str, Proxy], anyio_backend_name: str
) -> None:
    address, proxy = cut
    storage = PostgresStorage(f"{address}&connect_timeout=1000")
    told: list[Exception] = []

    async def clean_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await storage.version("chat")
                except StorageUnavailableError as error:
                    told.append(error)

    async def leave() -> None:
        await storage.open()
        start_task(clean_up)
        await open_one_in_vain(storage, proxy)

    anyio.run(leave, backend=anyio_backend_name)

    assert [str(error) for error in told] == ["the event loop ended while this was opened"]


def test_a_write_that_was_sent_when_the_loop_ends_is_told_its_outcome(
    cut: tuple[str, Proxy], url: str, anyio_backend_name: str
) -> None:
    address, proxy = cut
    sent: list[bytes] = []
    told: list[int] = []

    def change(data: bytes) -> bytes:
        if b"said last" in data:
            proxy.silence(True)  # from here on: this goes out, and nothing comes back
            sent.append(data)
        return data

    async def write() -> None:
        appended = await history.append("chat", say("said last"))
        told.append(appended.last_seq)

    async def let_answer() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            proxy.silence(False)

    async def leave() -> None:
        await history.__aenter__()
        proxy.change = change
        start_task(let_answer)
        start_task(write)
        await until(lambda: bool(sent))

    history = AsyncHistoryManager(PostgresStorage(address))
    anyio.run(leave, backend=anyio_backend_name)

    assert told == [1]
    assert stored(url) == ["said last"]


def test_a_write_whose_connection_was_still_to_be_opened_names_its_key(
    cut: tuple[str, Proxy], url: str
) -> None:
    """On asyncio; trio lets it go on for as long as it would have."""
    address, proxy = cut
    history = AsyncHistoryManager(PostgresStorage(address))
    writes: list[asyncio.Task[Any]] = []

    async def leave() -> None:
        await history.__aenter__()
        await history.append("chat", say("one"))
        proxy.refuse(True)
        lost = history.append("chat", say("two"), idempotency_key="k2")
        writes.append(asyncio.create_task(lost))
        await until(lambda: bool(proxy.refused))

    anyio.run(leave, backend="asyncio")

    error = writes[0].exception()
    assert isinstance(error, OutcomeUnknownError)
    assert error.idempotency_key == "k2"
    assert stored(url) == ["one"]


def test_closing_in_another_loop_closes_a_loops_connections(
    url: str, anyio_backend_name: str
) -> None:
    name = "closed_elsewhere"
    storage = PostgresStorage(f"{url}&application_name={name}")

    async def close() -> None:
        await storage.aclose()
        await until(lambda: connections(url, name) == 0)

    with anyio.from_thread.start_blocking_portal(anyio_backend_name) as portal:
        portal.call(storage.open)
        assert connections(url, name) == 1
        anyio.run(close, backend=anyio_backend_name)
