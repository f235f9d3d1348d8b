"""The PostgreSQL store when connections break, servers go away and calls are cancelled."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    BusyError,
    ConfigurationError,
    ForeignDatabaseError,
    NewerSchemaError,
    NotOpenError,
    OutcomeUnknownError,
    PostgresStorage,
    StorageUnavailableError,
    open_history,
)
from tests.contract.archiving import say
from tests.faults.proxy import Proxy
from tests.postgres import direct, texts

pytestmark = pytest.mark.anyio


# -- connections that break


async def test_cut_anywhere_and_tried_again_with_its_key_each_append_is_stored_once(
    cut: tuple[str, Proxy], history: AsyncHistoryManager
) -> None:
    address, proxy = cut
    draw = random.Random(7)
    unknown: list[tuple[str, str | None]] = []

    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as cut_off:
        await cut_off.create_session("chat")
        for number in range(150):
            proxy.cut_after(draw.randrange(1_200))
            while True:
                try:
                    await cut_off.append("chat", say(str(number)), idempotency_key=f"k{number}")
                    break
                except OutcomeUnknownError as error:
                    unknown.append((f"k{number}", error.idempotency_key))
                except StorageUnavailableError:
                    pass

    assert await texts(history) == [str(number) for number in range(150)]
    assert proxy.cuts >= 100
    assert unknown, "no cut was in the middle of a statement"
    assert all(given == named for given, named in unknown)


async def test_a_group_that_is_cut_names_each_callers_own_key(cut: tuple[str, Proxy]) -> None:
    address, proxy = cut
    keys: set[str | None] = set()

    async with AsyncHistoryManager(PostgresStorage(address)) as history:
        await history.append("chat", say("first"))
        proxy.cut_after(900)

        async def write(number: int) -> None:
            try:
                await history.append("chat", say("x" * 500), idempotency_key=f"k{number}")
            except OutcomeUnknownError as error:
                keys.add(error.idempotency_key)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(write, number)

    assert keys
    assert keys <= {f"k{number}" for number in range(10)}


async def test_an_idle_connection_that_died_is_noticed_before_it_is_used(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", say("one"))
        assert await texts(history) == ["one"]

        proxy.refuse(True)
        proxy.refuse(False)

        await history.append("chat", say("two"))
        assert await texts(history) == ["one", "two"]


async def test_a_change_that_is_cut_before_its_commit_is_done_again(
    cut: tuple[str, Proxy],
) -> None:
    address, proxy = cut
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as history:
        await history.append("chat", *[say(str(number)) for number in range(6)])
        for left in (5, 4, 3):
            proxy.cut_after(60)  # within the first statements

            await history.truncate("chat", left)

            assert await texts(history) == [str(number) for number in range(left)]
    assert proxy.cuts == 3


async def test_a_server_that_cannot_be_reached_is_said_so(cut: tuple[str, Proxy]) -> None:
    address, proxy = cut
    proxy.refuse(True)

    with pytest.raises(StorageUnavailableError, match="cannot be reached") as caught:
        async with AsyncHistoryManager(PostgresStorage(address)):
            pass

    assert "password" not in str(caught.value)


async def test_a_watch_goes_on_when_its_connection_breaks(
    cut: tuple[str, Proxy], history: AsyncHistoryManager
) -> None:
    address, proxy = cut
    async with AsyncHistoryManager(PostgresStorage(address)) as watching:
        await history.append("chat", say("0"))
        async with watching.watch("chat", after_seq=0) as records:
            assert (await anext(records)).seq == 1
            for number in (2, 3):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(history.append, "chat", say("x"))
                    assert (await anext(records)).seq == number
                proxy.refuse(True)
                proxy.refuse(False)


# -- cancellation


async def test_a_read_that_is_cancelled_does_not_leave_its_answer_to_the_next(
    history: AsyncHistoryManager,
) -> None:
    for name in ("one", "two"):
        await history.append(name, *[say(name) for _ in range(50)])
    draw = random.Random(3)
    wrong: list[str] = []

    async def read(number: int) -> None:
        name = ("one", "two")[number % 2]
        with anyio.move_on_after(draw.random() * 0.002):
            wrong.extend(text for text in await texts(history, name) if text != name)

    for _ in range(40):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(read, number)

    assert not wrong
    assert set(await texts(history, "one")) == {"one"}


# -- locks and deadlines


async def test_a_session_that_others_keep_locked_is_a_busy_error_for_it_alone(url: str) -> None:
    async with AsyncHistoryManager(PostgresStorage(f"{url}&lock_timeout=0.2")) as history:
        await history.append("locked", say("one"))
        with direct(url) as other, other.transaction():
            other.execute("SELECT 1 FROM sessions WHERE id = 'locked' FOR UPDATE")

            async def write(name: str) -> None:
                await history.append(name, say("two"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, "free")
                with pytest.raises(BusyError, match="nothing was written"):
                    await write("locked")

        assert await texts(history, "free") == ["two"]
        assert await texts(history, "locked") == ["one"]


# -- the schema


async def test_tables_of_another_application_are_left_alone(url: str) -> None:
    schema = url.partition("schema=")[2]
    with direct(url) as other:
        other.execute(f"CREATE SCHEMA {schema}")
        other.execute("CREATE TABLE theirs(one int)")

    with pytest.raises(ForeignDatabaseError, match="another application"):
        async with AsyncHistoryManager(PostgresStorage(url)):
            pass


async def test_a_newer_schema_is_refused(url: str) -> None:
    async with AsyncHistoryManager(PostgresStorage(url)):
        pass
    with direct(url) as other:
        other.execute("UPDATE asynchistory_schema SET version = 99")

    with pytest.raises(NewerSchemaError, match="upgrade"):
        async with AsyncHistoryManager(PostgresStorage(url)):
            pass


async def test_a_use_after_the_end_is_refused(url: str) -> None:
    storage = PostgresStorage(url)
    async with storage:
        pass

    with pytest.raises(NotOpenError):
        await storage.version("chat")


# -- the URL


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://u:secret@h/d?nonsense=1",
        "postgresql://u:secret@h/d?schema=Bad-Name",
        "postgresql://u:secret@h/d?pool=0",
        "postgresql://u:secret@h/d?lock_timeout=soon",
        "postgresql://u:secret@h:port/d",
    ],
)
async def test_a_url_that_cannot_be_is_refused_without_its_secret(bad: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_history(bad)

    assert "secret" not in str(caught.value)


async def test_the_url_of_a_store_has_no_secret() -> None:
    storage: Any = open_history(
        "postgresql://ann:secret@db.example:5433/chats?sslmode=require&password=other"
    ).storage

    assert storage.url == "postgresql://ann@db.example:5433/chats?sslmode=require"
    assert "secret" not in repr(storage)
