"""The schema of a PostgreSQL store: brought up to date at most once, or left as it was."""

from __future__ import annotations

import anyio
import pytest

from asynchistory import AsyncHistoryManager, Message, PostgresStorage, StorageUnavailableError
from asynchistory.storage.postgres import schema
from asynchistory.storage.postgres.migrations import MIGRATIONS, SCHEMA_VERSION
from tests.contract.archiving import call
from tests.contract.watching import until
from tests.faults.proxy import Proxy
from tests.postgres import database, direct, held_up, schema_of

pytestmark = pytest.mark.anyio

_STEP = "ALTER TABLE sessions ADD COLUMN mood text NOT NULL DEFAULT 'fine'"


def migrate_by(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """From now on this is a version with these migrations."""
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(steps))


def next_version(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """From now on this is a version with further migrations."""
    migrate_by(monkeypatch, *MIGRATIONS, *steps)


def version_in(url: str) -> int:
    with direct(url) as db:
        return int(db.execute("SELECT version FROM asynchistory_schema").fetchall()[0][0])


async def write(url: str, text: str) -> None:
    async with AsyncHistoryManager(PostgresStorage(url)) as history:
        await history.append("chat", Message.of("user", text))


async def read(url: str) -> list[str]:
    async with AsyncHistoryManager(PostgresStorage(url), level="fresh") as history:
        return [getattr(record, "text", "") for record in await history.last("chat", 10)]


async def test_an_older_schema_is_brought_up_to_date_with_all_that_it_holds(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(url, "old")

    next_version(monkeypatch, _STEP)
    await write(url, "new")

    assert version_in(url) == SCHEMA_VERSION + 1
    with direct(url) as db:
        assert db.execute("SELECT mood FROM sessions").fetchall() == [("fine",)]
    assert await read(url) == ["old", "new"]


async def test_a_migration_that_fails_leaves_the_schema_as_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(url, "old")

    with monkeypatch.context() as patch:
        next_version(patch, _STEP, "SELECT 1 FROM missing")
        with pytest.raises(StorageUnavailableError, match="restore a backup"):
            await write(url, "new")

    assert version_in(url) == SCHEMA_VERSION
    assert await read(url) == ["old"]


async def test_a_migration_that_is_cut_leaves_the_schema_as_it_was(
    cut: tuple[str, Proxy], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, proxy = cut
    await write(url, "old")
    proxy.change = lambda data: None if b"UPDATE asynchistory_schema" in data else data

    with monkeypatch.context() as patch:
        next_version(patch, _STEP)
        with pytest.raises(StorageUnavailableError, match="hung up"):
            await write(address, "new")

    assert version_in(url) == SCHEMA_VERSION
    assert await read(url) == ["old"]


async def test_what_another_process_has_just_brought_up_to_date_is_not_done_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(url, "old")
    next_version(monkeypatch, _STEP)

    with direct(url) as other:
        async with anyio.create_task_group() as tasks:
            with other.transaction():
                other.execute(
                    "SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))",
                    (schema.LOCK_CLASS,),
                )
                other.execute(_STEP)
                other.execute("UPDATE asynchistory_schema SET version = version + 1")
                tasks.start_soon(write, url, "new")
                await until(lambda: held_up(other) == 1)

    assert version_in(url) == SCHEMA_VERSION + 1
    assert await read(url) == ["old", "new"]


@pytest.mark.parametrize("word", ["order", "default"])
async def test_a_schema_may_have_the_name_of_a_word_of_sql(url: str, word: str) -> None:
    with database(url, "") as empty:
        named = empty.replace(f"schema={schema_of(url)}", f"schema={word}")
        await write(named, "one")
        await write(named, "two")

        assert await read(named) == ["one", "two"]
        with direct(named) as db:
            found = db.execute(
                "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'records'"
            ).fetchall()
        assert found == [(word,)]


async def test_a_schema_that_is_there_and_empty_is_filled(url: str) -> None:
    with direct(url) as admin:
        admin.execute(f"CREATE SCHEMA {schema_of(url)}")

    await write(url, "one")

    assert await read(url) == ["one"]


# -- every earlier schema


async def listed(history: AsyncHistoryManager) -> list[str]:
    return [session.id for session in (await history.list_sessions()).sessions]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_an_earlier_schema_opens_with_all_that_it_holds(
    version: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        migrate_by(patch, *MIGRATIONS[:version])
        async with AsyncHistoryManager(PostgresStorage(url)) as history:
            # With keys, as all of them can.
            texts = [Message.of("user", str(number)) for number in range(5)]
            await history.append("chat", *texts, idempotency_key="texts")
            await history.append("chat", *call(1), idempotency_key="key")
            await history.fork("chat", "fork", at_seq=3)
            await history.truncate("chat", 4)
            before = [await history.last(name, 100) for name in ("chat", "fork")]

    async with AsyncHistoryManager(PostgresStorage(url)) as history:
        assert await listed(history) == ["chat", "fork"]
        assert [await history.last(name, 100) for name in ("chat", "fork")] == before
        await history.append("fork", Message.of("user", "later"))
        assert await listed(history) == ["fork", "chat"]
        assert (await history.verify()).ok
    assert version_in(url) == SCHEMA_VERSION
