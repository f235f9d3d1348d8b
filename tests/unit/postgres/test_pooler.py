"""A PostgreSQL store behind PgBouncer. Skipped where it is not installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from asynchistory import AsyncHistoryManager, ConfigurationError, PostgresStorage
from tests.contract.archiving import say
from tests.contract.watching import take
from tests.postgres import schema_of, server, texts, url_of

pytestmark = pytest.mark.anyio

_SETTINGS = """\
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 10
"""


@contextmanager
def pooling(mode: str) -> Iterator[str]:
    """The URL of the tests' database through a pooler of its own."""
    program = shutil.which("pgbouncer", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    given = {"user": "postgres", "dbname": "postgres", **conninfo_to_dict(server())}
    known = ("host", "port", "dbname", "user", "password")
    words = " ".join(f"{name}={given[name]}" for name in known if name in given)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="asynchistory-pooler-") as folder:
        Path(folder).chmod(0o755)
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(_SETTINGS.format(server=words, port=port, mode=mode))
        command = [program, str(settings)]
        if settings.owner() == "root":
            # It refuses to run as root; as the server's own user it may reach the server's socket.
            host = Path(str(given.get("host", "")))
            command += ["-u", host.owner() if host.is_absolute() else "nobody"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as pooler:
            try:
                assert pooler.stderr is not None
                assert any("process up" in line for line in pooler.stderr)
                place = f"{given['user']}@127.0.0.1:{port}/{given['dbname']}"
                yield f"postgresql://{place}"
            finally:
                pooler.terminate()


@pytest.fixture
def pooled(url: str) -> Iterator[str]:
    """The URL of the test's store through a pooler of sessions."""
    with pooling("session") as address:
        yield f"{address}?schema={schema_of(url)}&pooler=session"


async def test_behind_a_pooler_of_sessions_it_is_the_same_store(
    history: AsyncHistoryManager, pooled: str
) -> None:
    async with AsyncHistoryManager(PostgresStorage(pooled), level="fresh") as behind:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(behind.append, f"chat-{number % 4}", say(str(number)))

        found = [len(await texts(history, f"chat-{number}")) for number in range(4)]
        assert found == [10] * 4
        assert len(await texts(behind, "chat-0")) == 10
        async with behind.watch("chat-0", after_seq=10) as records:
            await history.append("chat-0", say("told"))
            assert await take(records, 1) == [11]


async def test_a_pooler_gives_nothing_of_one_to_the_next(url: str, pooled: str) -> None:
    """Not even the schema."""
    other = pooled.replace(schema_of(url), schema_of(url_of(f"{url} of others")))
    for address in (pooled, other, pooled):
        async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as behind:
            await behind.append("chat", say("here"))
    async with AsyncHistoryManager(PostgresStorage(pooled), level="fresh") as behind:
        assert await texts(behind) == ["here"] * 2


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_that_nothing_is_said_of_is_refused_before_anything_is_set(
    url: str, mode: str
) -> None:
    with pooling(mode) as address:
        with psycopg.connect(address, autocommit=True) as before:
            wanted = before.execute("SHOW search_path").fetchall()
        with pytest.raises(ConfigurationError, match="pooler=session"):
            await PostgresStorage(f"{address}?schema={schema_of(url)}").open()

        with psycopg.connect(address, autocommit=True) as after:
            assert after.execute("SHOW search_path").fetchall() == wanted


def test_of_poolers_only_those_of_sessions_can_be_named() -> None:
    with pytest.raises(ConfigurationError, match="can only be session"):
        PostgresStorage("postgresql://localhost/chats?pooler=transaction")
