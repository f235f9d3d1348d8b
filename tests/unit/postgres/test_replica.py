"""A PostgreSQL store with a replica that really follows: what is asked of it, and what is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from asynchistory import AsyncHistoryManager, PostgresStorage
from asynchistory.errors import StorageUnavailableError
from tests.contract.archiving import call, figures, live, say
from tests.contract.watching import until
from tests.postgres import direct, server, texts

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def follower() -> Iterator[str]:
    """The folder of a replica's socket."""
    if "ASYNCHISTORY_TEST_POSTGRES" in os.environ:
        pytest.skip("only of the server from the wheel is a replica made")
    params = conninfo_to_dict(server())
    with psycopg.connect(server()) as admin:
        found = admin.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchall()
        programs = Path(found[0][0])
    place = Path(str(params["host"]))
    user = place.owner() if os.geteuid() == 0 else None  # PostgreSQL does not run as root
    folder = Path(tempfile.mkdtemp(prefix="asynchistory-replica-"))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    subprocess.run(
        [programs / "pg_basebackup", "-h", place, "-p", str(params["port"]), "-U", "postgres",
         "-D", data, "-R", "-c", "fast"],
        check=True, user=user, cwd="/",
    )  # fmt: skip
    with subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder, "-p", str(params["port"]),
         "-c", "listen_addresses=", "-c", "logging_collector=off"],
        stderr=subprocess.PIPE, text=True, user=user, cwd="/",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            assert any("ready to accept read-only" in line for line in process.stderr)
            yield str(folder)
        finally:
            process.send_signal(signal.SIGINT)  # whoever may still be connected
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def replica(url: str, follower: str) -> str:
    """The URL of the store at the replica."""
    parts = urlsplit(url)
    host = quote(str(conninfo_to_dict(server())["host"]))
    assert host in parts.query
    return urlunsplit(parts._replace(query=parts.query.replace(host, quote(follower))))


@pytest.fixture
async def both(url: str, replica: str) -> AsyncIterator[AsyncHistoryManager]:
    """A store that has the replica."""
    storage = PostgresStorage(url, replica=replica)
    async with AsyncHistoryManager(storage, level="fresh") as history:
        yield history


async def catch_up(url: str, replica: str) -> None:
    """Wait until the replica has all that has been written."""
    with direct(url) as primary, direct(replica) as other:
        [[place]] = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
        behind = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        await until(lambda: bool(other.execute(behind, (place,)).fetchall()[0][0]))


@asynccontextmanager
async def paused(replica: str) -> AsyncIterator[None]:
    """A block in which it follows no further."""
    with direct(replica) as other:
        other.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        await until(lambda: other.execute(state).fetchall() == [("paused",)])
        try:
            yield
        finally:
            other.execute("SELECT pg_wal_replay_resume()")


async def test_what_counts_is_asked_of_the_replica(
    url: str, replica: str, both: AsyncHistoryManager, history: AsyncHistoryManager
) -> None:
    await live(history)
    await catch_up(url, replica)
    wanted = await figures(history)
    async with paused(replica):
        await history.append("behind", say("needle"), *call(9))

        # What it has not got yet is not in what it is asked for, and is in all else.
        assert await figures(both) == wanted
        assert await both.search("needle") == ()
        assert await texts(both, "behind") == await texts(history, "behind")
        assert (await both.get_session_summary("behind")).records == 5
    await catch_up(url, replica)

    assert await figures(both) == await figures(history) != wanted
    assert [hit.record.seq for hit in await both.search("needle")] == [1]


async def test_without_its_replica_a_store_goes_on(url: str) -> None:
    gone = urlunsplit(urlsplit(url)._replace(path="/no_such_database"))
    async with AsyncHistoryManager(PostgresStorage(url, replica=gone), level="fresh") as history:
        await history.append("chat", say("one"))

        assert await texts(history) == ["one"]
        with pytest.raises(StorageUnavailableError, match="no such database"):
            await history.search("one")


async def test_a_replica_alone_is_read_and_says_where_to_write(
    url: str, replica: str, history: AsyncHistoryManager
) -> None:
    await history.append("chat", say("one"))
    await catch_up(url, replica)
    async with AsyncHistoryManager(PostgresStorage(replica), level="fresh") as reading:
        assert await texts(reading) == ["one"]
        with pytest.raises(StorageUnavailableError, match="URL of the primary"):
            await reading.append("chat", say("two"))
    assert await texts(history) == ["one"]
