"""What a server refuses is told with its remedy, and without a password or a content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import errors

from asynchistory import (
    AsyncHistoryError,
    AsyncHistoryManager,
    BusyError,
    PostgresStorage,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from asynchistory.storage.postgres import changes
from asynchistory.storage.postgres.problems import passing
from asynchistory.storage.postgres.sql import Statements
from asynchistory.storage.postgres.waiting import Connection
from tests.contract.archiving import say
from tests.faults.proxy import Proxy
from tests.postgres import database, direct, stranger, texts
from tests.unit.refusals import CANARY, everything, refuse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def history(history: AsyncHistoryManager) -> AsyncHistoryManager:
    await history.append("chat", say("one"))
    return history


async def opened(url: str) -> None:
    async with PostgresStorage(url):
        pass


# -- opening


async def test_a_user_that_may_make_no_schema_is_told_what_to_grant(url: str) -> None:
    with stranger(url) as (theirs, name):
        await refuse(lambda: opened(theirs), StorageUnavailableError, "grant it CREATE")

        with direct(url) as admin:
            admin.execute(f"CREATE SCHEMA {name.removeprefix('user_')} AUTHORIZATION {name}")
        async with AsyncHistoryManager(PostgresStorage(theirs), level="fresh") as history:
            await history.append("chat", say("in a schema of its own"))
            assert await texts(history) == ["in a schema of its own"]


async def test_a_database_that_is_not_in_utf8_is_refused_untouched(url: str) -> None:
    with database(url, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'") as other:
        await refuse(lambda: opened(other), StorageUnavailableError, "UTF8; create one that is")

        with direct(other) as admin:
            found = admin.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'test%'")
            assert not found.fetchall()


async def test_a_first_opening_that_is_cut_leaves_nothing_half_made(
    cut: tuple[str, Proxy], url: str
) -> None:
    address, proxy = cut
    proxy.change = lambda data: None if b"CREATE TABLE sessions" in data else data

    await refuse(lambda: opened(address), StorageUnavailableError, "hung up")

    with direct(url) as admin:
        assert not admin.execute(
            "SELECT 1 FROM pg_namespace WHERE nspname = current_schema()"
        ).fetchall()
    await opened(url)


async def test_an_opening_without_an_answer_is_given_up(cut: tuple[str, Proxy]) -> None:
    address, proxy = cut
    proxy.silence(True)

    await refuse(
        lambda: opened(f"{address}&connect_timeout=1"),
        StorageUnavailableError,
        "check that it runs",
    )


async def test_a_connection_that_can_never_be_is_not_tried_again(url: str) -> None:
    with stranger(url, "NOLOGIN") as (theirs, _):
        with pytest.raises(Exception, match="log in") as caught:
            await Connection.dial(PostgresStorage(theirs).address.params)

        assert not passing(caught.value)


async def test_a_connection_that_others_use_up_is_tried_again(url: str) -> None:
    with stranger(url, "LOGIN CONNECTION LIMIT 0") as (theirs, _):
        with pytest.raises(Exception, match="too many") as caught:
            await Connection.dial(PostgresStorage(theirs).address.params)

        assert passing(caught.value)


# -- reading and writing


async def test_a_server_that_only_reads_is_read_and_says_where_to_write(
    history: AsyncHistoryManager, url: str
) -> None:
    replica = f"{url}&options=--default_transaction_read_only%3Don"
    async with AsyncHistoryManager(PostgresStorage(replica), level="fresh") as reading:
        assert await texts(reading) == ["one"]

        await refuse(
            lambda: reading.append("chat", say(CANARY)), StorageUnavailableError, "the primary"
        )
        await refuse(
            lambda: reading.truncate("chat", 0), StorageUnavailableError, "URL of the primary"
        )

        health = await reading.health()
        assert health.problem is not None
        assert "URL of the primary" in health.problem
        assert (health.write_time, health.read_time, health.file_bytes) == (None, None, None)
    assert await texts(history) == ["one"]


@pytest.mark.parametrize(
    ("sql", "call"),
    [
        ("DROP TABLE calls, rollup CASCADE", "statistics"),
        ("ALTER TABLE records DROP COLUMN body", "read"),
        ("DROP FUNCTION append_plain", "append"),
    ],
)
async def test_what_is_missing_of_ours_is_said_so(
    history: AsyncHistoryManager, url: str, sql: str, call: str
) -> None:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "statistics": history.get_token_statistics,
        "read": lambda: history.last("chat", 10),
        "append": lambda: history.append("chat", say(CANARY)),
    }
    with direct(url) as admin:
        admin.execute(sql)

    await refuse(calls[call], StorageUnavailableError, "missing; restore a backup")


REFUSED: dict[str, tuple[type[AsyncHistoryError], str]] = {
    "53100": (StorageUnavailableError, "no room left; free some"),  # its disk is full
    "53200": (StorageUnavailableError, "no room left; free some"),
    "53300": (StorageUnavailableError, "no free connection; try again"),
    "28000": (StorageUnavailableError, "user or password; check the URL"),  # as a pooler does
    "28P01": (StorageUnavailableError, "user or password; check the URL"),
    "3D000": (StorageUnavailableError, "no such database; create it"),
    "57P01": (StorageUnavailableError, "starts, stops"),
    "55P03": (BusyError, "others hold a lock on it; nothing was written"),
    "57014": (BusyError, "raise it in the URL"),
    "23514": (StorageError, "SQLSTATE 23514"),  # a constraint that others put there
    "XX000": (StorageError, "the server refused"),
}


@pytest.mark.parametrize("code", REFUSED)
async def test_what_the_server_raises_is_told_without_its_words(
    history: AsyncHistoryManager, url: str, code: str
) -> None:
    error, remedy = REFUSED[code]
    with direct(url) as admin:
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '%', NEW.body USING ERRCODE = '{code}'; END $$"
        )
        admin.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records FOR EACH ROW "
            f"WHEN (NEW.body LIKE '%{CANARY}%') EXECUTE FUNCTION refuse()"
        )

    await refuse(lambda: history.append("chat", say(CANARY)), error, remedy)
    await refuse(lambda: history.replace("chat", say(CANARY)), error, remedy)

    await history.append("chat", say("two"))
    assert await texts(history) == ["one", "two"]


async def test_a_read_whose_connection_an_administrator_ends_says_to_try_again(
    history: AsyncHistoryManager, url: str
) -> None:
    with direct(url) as admin:
        admin.execute("ALTER TABLE records RENAME TO kept")
        # A read of the records ends the connection that it runs on.
        admin.execute(
            "CREATE VIEW records AS SELECT * FROM kept "
            "WHERE pg_terminate_backend(pg_backend_pid()) IS NOT NULL"
        )

        await refuse(lambda: history.last("chat", 10), StorageUnavailableError, "try again")

        admin.execute("DROP VIEW records")
        admin.execute("ALTER TABLE kept RENAME TO records")
    assert await texts(history) == ["one"]


async def test_a_statement_that_takes_too_long_names_the_setting(
    history: AsyncHistoryManager, url: str
) -> None:
    async with AsyncHistoryManager(
        PostgresStorage(f"{url}&statement_timeout=1"), level="fresh"
    ) as hurried:
        with direct(url) as other, other.transaction():
            other.execute("LOCK TABLE records")

            await refuse(lambda: hurried.last("chat", 10), BusyError, "statement_timeout")

        assert await texts(hurried) == ["one"]


async def test_an_error_that_is_no_servers_reaches_its_caller_and_undoes_the_write(
    history: AsyncHistoryManager,
) -> None:
    storage = history.storage
    assert isinstance(storage, PostgresStorage)

    async def failing(db: Statements) -> None:
        assert await changes.delete(db, "chat")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await storage._write(failing)

    await history.append("chat", say("two"))
    assert await texts(history) == ["one", "two"]


async def test_a_backup_names_what_makes_one(history: AsyncHistoryManager, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"

    with pytest.raises(UnsupportedError, match="use pg_dump, or `asynchistory copy"):
        await history.backup(path)

    assert not path.exists()


# -- who may not connect


@pytest.mark.parametrize("attributes", ["NOLOGIN", "LOGIN CONNECTION LIMIT 0"])
async def test_no_refusal_of_a_connection_has_the_password(url: str, attributes: str) -> None:
    with stranger(url, attributes) as (theirs, _):
        with pytest.raises(StorageUnavailableError) as caught:
            await opened(theirs)

        assert CANARY not in everything(caught.value)
        assert CANARY not in repr(caught.value)


async def test_a_user_that_may_not_connect_is_told_what_is_wrong(url: str) -> None:
    with stranger(url, "NOLOGIN") as (theirs, _):
        await refuse(lambda: opened(theirs), StorageUnavailableError, "user or password; check")


async def test_a_database_that_is_missing_is_told_to_be_created(url: str) -> None:
    parts = urlsplit(url)
    missing = urlunsplit(parts._replace(path="/no_such_database"))

    await refuse(lambda: opened(missing), StorageUnavailableError, "no such database; create it")


async def test_connections_that_are_used_up_are_no_network_fault(url: str) -> None:
    with stranger(url, "LOGIN CONNECTION LIMIT 0") as (theirs, _):
        await refuse(lambda: opened(theirs), StorageUnavailableError, "no free connection")


async def test_an_option_with_a_space_reaches_the_server(url: str) -> None:
    spaced = f"{url}&options=-c%20application_name%3Dspaced%20-c%20work_mem%3D4096"
    await opened(spaced)


@pytest.mark.parametrize(
    ("kind", "again"), [(errors.TooManyConnections, True), (errors.InvalidPassword, False)]
)
def test_a_code_says_whether_a_connection_is_tried_again(
    kind: type[psycopg.Error], again: bool
) -> None:
    """Of libpq there is none; a driver that gives one is believed."""
    assert passing(kind("FATAL: whatever")) is again
