"""Watches of the PostgreSQL store: told by the server, and none the worse where it cannot tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from asynchistory import AsyncHistoryManager, PostgresStorage
from asynchistory.storage import announcements
from asynchistory.storage.postgres import listening
from asynchistory.storage.postgres.lane import PATIENCE
from tests.contract.archiving import say
from tests.contract.watching import take, until
from tests.postgres import connections, direct, proxied, schema_of, stranger

pytestmark = pytest.mark.anyio


@pytest.fixture
async def writing(url: str) -> AsyncIterator[AsyncHistoryManager]:
    """Another process, as it were: a store of its own, which tells the others nothing."""
    async with AsyncHistoryManager(PostgresStorage(url)) as history:
        await history.create_session("chat")
        yield history


def opened(url: str) -> AsyncHistoryManager:
    return AsyncHistoryManager(PostgresStorage(url))


def watched(url: str) -> bool:
    """Whether writers are to tell of the session."""
    with direct(url) as db:
        found = db.execute("SELECT watched > now_us() FROM sessions WHERE id = 'chat'")
        return bool(found.fetchall()[0][0])


async def seen(history: AsyncHistoryManager, write: Callable[[], Any], seq: int = 1) -> None:
    """Wait for the session's record ``seq``, and have ``write`` write it."""
    async with (
        history.watch("chat", after_seq=seq - 1) as records,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(write)
        # In less than the time for which other connections are tried again.
        assert await take(records, 1, within=PATIENCE - 5) == [seq]


async def test_a_watch_that_outlives_its_lease_is_prolonged_and_told(
    url: str, writing: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_RENEW", 0.002)
    for module, name in ((listening, "_SELDOM"), (announcements, "POLL"), (listening, "POLL")):
        monkeypatch.setattr(module, name, 1_000)  # who is not told does not find out

    async def outlive() -> None:
        await until(lambda: watched(url))
        with direct(url) as db:
            db.execute("UPDATE sessions SET watched = 0")
        await until(lambda: watched(url))
        await writing.append("chat", say("one"))

    async with opened(url) as history:
        await seen(history, outlive)


async def test_who_waits_for_what_is_not_there_hinders_nobody_and_finds_it(
    url: str, writing: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_RENEW", 0.002)
    made: list[str] = []

    async with PostgresStorage(url) as storage:

        async def wait_for_it() -> None:
            await storage.changed("new", None)
            made.append("new")

        async def wait_for_chat() -> None:
            await storage.changed("chat", await storage.version("chat"))
            made.append("chat")

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_for_it)
                tasks.start_soon(wait_for_chat)
                await until(lambda: watched(url))
                with direct(url) as db:
                    db.execute("UPDATE sessions SET watched = 0")
                await until(lambda: watched(url))
                assert not made
                await writing.create_session("new")
                await until(lambda: made == ["new"])
                await writing.append("chat", say("one"))
    assert made == ["new", "chat"]


async def test_a_server_is_listened_to_for_as_long_as_anybody_waits(
    url: str, writing: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_RENEW", 0.002)
    name = "listened"
    async with opened(f"{url}&application_name={name}") as history:
        await history.last("chat", 1)
        before = connections(url, name)

        async def write() -> None:
            await until(lambda: connections(url, name) == before + 1)
            await writing.append("chat", say("x"))

        for seq in (1, 2):
            await seen(history, write, seq)
            await until(lambda: connections(url, name) == before)


@pytest.mark.parametrize(
    ("refusal", "leave"), [("NOLOGIN", "LOGIN"), ("CONNECTION LIMIT 1", "CONNECTION LIMIT -1")]
)
async def test_who_may_not_listen_looks(
    url: str, writing: AsyncHistoryManager, refusal: str, leave: str
) -> None:
    with stranger(url) as (theirs, name), direct(url) as admin:
        schema = schema_of(url)
        admin.execute(f"GRANT ALL ON SCHEMA {schema} TO {name}")
        admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {name}")
        admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {name}")
        async with opened(theirs) as history:
            admin.execute(f"ALTER ROLE {name} {refusal}")  # the connection that is there stays

            await seen(history, lambda: writing.append("chat", say("one")))

            assert not watched(url)
            admin.execute(f"ALTER ROLE {name} {leave}")

            async def write() -> None:
                await until(lambda: watched(url))
                await writing.append("chat", say("two"))

            await seen(history, write, 2)


async def test_a_session_that_others_keep_locked_is_looked_at(
    url: str, writing: AsyncHistoryManager
) -> None:
    refused: list[bytes] = []

    def change(data: bytes) -> bytes:
        if b"55P03" in data:  # a lock was not to be had
            refused.append(data)
        return data

    with proxied(url) as (address, proxy), direct(url) as other:
        proxy.change = change
        async with opened(f"{address}&lock_timeout=0.1") as history:
            other.execute("BEGIN; SELECT 1 FROM sessions WHERE id = 'chat' FOR UPDATE")

            async def write() -> None:
                await until(lambda: bool(refused))
                other.execute("ROLLBACK")
                assert not watched(url)
                await writing.append("chat", say("one"))

            await seen(history, write)
