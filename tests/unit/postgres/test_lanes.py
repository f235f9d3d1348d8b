"""Connections and writers of the PostgreSQL store, where the server is old, or gives out."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    BusyError,
    NotOpenError,
    OutcomeUnknownError,
    PostgresStorage,
    StorageError,
    StorageUnavailableError,
)
from asynchistory.storage.postgres import lane, waiting
from asynchistory.storage.postgres.address import parse
from asynchistory.storage.postgres.server import Server
from tests.contract.archiving import say
from tests.contract.watching import until
from tests.faults.proxy import Proxy
from tests.postgres import direct, texts

pytestmark = pytest.mark.anyio

_SETTING = b"client_connection_check_interval"


def raising(url: str, code: str, times: int) -> None:
    """Have the next inserts of records fail, as a conflict of others would make them."""
    with direct(url) as admin:
        admin.execute("CREATE SEQUENCE fails")  # which no transaction takes back
        admin.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('fails') <= {times} THEN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; "
            "END IF; RETURN NEW; END $$"
        )
        admin.execute(
            "CREATE TRIGGER fail BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION fail()"
        )


# -- servers that are old, or cannot do what is asked


async def test_a_server_before_14_is_not_asked_for_what_it_does_not_know(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    seen: list[bytes] = []

    def change(data: bytes) -> bytes:
        seen.append(data)
        return re.sub(rb"(server_version\0)\d\d", rb"\g<1>13", data)

    proxy.change = change
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", say("one"))
        assert await texts(history) == ["one"]
    assert _SETTING not in b"".join(seen)


async def test_a_platform_that_cannot_look_for_those_who_left_is_used_without(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    proxy.change = lambda data: data.replace(_SETTING + b" = 1000", _SETTING + b" = -999")

    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", say("one"))
        assert await texts(history) == ["one"]


async def test_a_connection_that_breaks_while_it_is_set_up_is_said_so(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    proxy.change = lambda data: None if _SETTING in data else data

    with pytest.raises(StorageUnavailableError, match="hung up"):
        async with PostgresStorage(address):
            pass


async def test_a_write_waits_for_a_server_that_comes_back(cut: tuple[str, Proxy]) -> None:
    address, proxy = cut
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", say("one"))
        proxy.refuse(True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(history.append, "chat", say("two"))
            await until(lambda: proxy.refused >= 2)
            proxy.refuse(False)
        assert await texts(history) == ["one", "two"]


# -- what others undo


async def test_what_others_undid_once_is_done_again(history: AsyncHistoryManager, url: str) -> None:
    await history.append("chat", say("one"))
    raising(url, "40001", 1)

    await history.append("chat", say("two"))

    assert await texts(history) == ["one", "two"]


async def test_what_others_undo_each_time_is_given_up(
    history: AsyncHistoryManager, url: str
) -> None:
    await history.append("chat", say("one"))
    raising(url, "40P01", 1_000)

    with pytest.raises(BusyError, match="nothing was written"):
        await history.append("chat", say("two"))

    assert await texts(history) == ["one"]


async def test_a_change_that_is_cut_before_each_commit_is_given_up_undone(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", say("one"), say("two"))
        proxy.change = lambda data: None if b"DELETE FROM records" in data else data

        with pytest.raises(StorageUnavailableError, match="nothing was written: try again"):
            await history.truncate("chat", 1)

        assert proxy.cuts > 1
        assert await texts(history) == ["one", "two"]


async def test_one_of_a_group_that_is_refused_does_not_take_the_others_along(
    history: AsyncHistoryManager, url: str
) -> None:
    with direct(url) as admin:
        admin.execute("ALTER TABLE records ADD CHECK (body NOT LIKE '%refused%')")
    outcomes: dict[int, str] = {}

    async def write(number: int) -> None:
        try:
            await history.append(f"chat-{number % 3}", say("refused" if number == 4 else "fine"))
            outcomes[number] = "stored"
        except StorageError as error:
            outcomes[number] = error.__class__.__name__

    async with anyio.create_task_group() as tasks:
        for number in range(9):
            tasks.start_soon(write, number)

    assert outcomes == dict.fromkeys(range(9), "stored") | {4: "StorageError"}
    assert [len(await texts(history, f"chat-{number}")) for number in range(3)] == [3, 2, 3]


async def test_all_appends_to_a_locked_session_are_told_so_and_others_stored(url: str) -> None:
    outcomes: list[str] = []
    async with AsyncHistoryManager(PostgresStorage(f"{url}&lock_timeout=0.2")) as history:
        await history.append("locked", say("one"))

        async def write(name: str) -> None:
            try:
                await history.append(name, say("two"))
                outcomes.append(f"{name} stored")
            except BusyError:
                outcomes.append(f"{name} busy")

        with direct(url) as other, other.transaction():
            other.execute("SELECT 1 FROM sessions WHERE id = 'locked' FOR UPDATE")
            async with anyio.create_task_group() as tasks:
                for name in ("locked", "free", "locked", "locked"):
                    tasks.start_soon(write, name)

    assert sorted(outcomes) == ["free stored", *["locked busy"] * 3]


# -- servers that say nothing


async def test_without_an_answer_a_change_did_not_happen_and_an_append_may_have(
    cut: tuple[str, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, proxy = cut
    storage = PostgresStorage(address)
    timeouts = storage.address.lock_timeout + storage.address.statement_timeout

    @contextmanager
    def silence() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(lane, "_GRACE", 0.1 - timeouts)
            proxy.silence(True)
            yield
            proxy.silence(False)

    async with AsyncHistoryManager(storage, level="fresh") as history:
        await history.append("chat", say("one"), say("two"))
        with silence(), pytest.raises(StorageUnavailableError, match="written: try again"):
            await history.truncate("chat", 1)
        assert await texts(history) == ["one", "two"]

        with silence(), pytest.raises(OutcomeUnknownError) as caught:
            await history.append("chat", say("three"), idempotency_key="k3")
        assert caught.value.idempotency_key == "k3"
        await history.append("chat", say("three"), idempotency_key="k3")
        assert await texts(history) == ["one", "two", "three"]


async def test_a_server_that_is_closed_takes_no_more(url: str) -> None:
    server = Server(parse(url))
    await server.aclose()

    with pytest.raises(NotOpenError, match="open the history again"):
        async with server:
            pass


# -- sockets


async def test_what_cannot_be_written_at_once_waits_for_room() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                one.send(b"x" * 65_536)
        ready: list[int] = []

        async def wait() -> None:
            ready.append(await waiting._ready(one.fileno(), 2))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert not ready
                other.setblocking(False)
                with suppress(BlockingIOError):
                    while other.recv(1 << 20):
                        pass
        assert ready == [2]


async def test_without_poll_the_store_works_by_select(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")
    async with AsyncHistoryManager(PostgresStorage(url), level="fresh") as history:
        await history.append("chat", say("one"))
        assert await texts(history) == ["one"]
