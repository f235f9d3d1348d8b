"""A PostgreSQL store behind PgBouncer, which pools sessions. Skipped where it is not installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import pytest
from psycopg.conninfo import conninfo_to_dict

from asynchistory import AsyncHistoryManager, PostgresStorage
from tests.contract.archiving import say
from tests.contract.watching import take
from tests.postgres import connections, server, texts

pytestmark = pytest.mark.anyio

_SETTINGS = """\
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = session
default_pool_size = 10
"""


@pytest.fixture
def pooled(url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the store through a pooler of its own."""
    program = shutil.which("pgbouncer", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    params = conninfo_to_dict(server())
    given = {"user": "postgres", "dbname": "postgres", **params}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "pgbouncer.ini"
    known = ("host", "port", "dbname", "user", "password")
    words = " ".join(f"{name}={given[name]}" for name in known if name in given)
    settings.write_text(_SETTINGS.format(server=words, port=port))
    command = [program, str(settings)]
    if tmp_path.owner() == "root":
        # It refuses to run as root; as the server's own user it may reach the server's socket.
        host = Path(str(given.get("host", "")))
        command += ["-u", host.owner() if host.is_absolute() else "nobody"]
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as pooler:
        try:
            assert pooler.stderr is not None
            for line in pooler.stderr:
                if "process up" in line:
                    break
            else:
                pytest.fail("PgBouncer did not start")
            parts = urlsplit(url)
            schema = [pair for pair in parse_qsl(parts.query) if pair[0] == "schema"]
            place = f"{given['user']}@127.0.0.1:{port}"
            yield urlunsplit(("postgresql", place, f"/{given['dbname']}", urlencode(schema), ""))
        finally:
            pooler.terminate()


async def test_behind_a_pooler_of_sessions_it_is_the_same_store(
    history: AsyncHistoryManager, pooled: str
) -> None:
    async with AsyncHistoryManager(PostgresStorage(pooled), level="fresh") as behind:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(behind.append, f"chat-{number % 4}", say(str(number)))

        assert (
            sorted([len(await texts(history, f"chat-{number}")) for number in range(4)]) == [10] * 4
        )
        assert len(await texts(behind, "chat-0")) == 10
        async with behind.watch("chat-0", after_seq=10) as records:
            await history.append("chat-0", say("told"))
            assert await take(records, 1) == [11]


async def test_a_pooler_gives_what_one_left_to_the_next(pooled: str) -> None:
    """What a connection was set to is not left to the next: not even another schema."""
    other = pooled.replace("schema=", "application_name=behind&schema=other_")
    for address in (pooled, other, pooled):
        async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as behind:
            await behind.append("chat", say("here"))
    async with AsyncHistoryManager(PostgresStorage(pooled), level="fresh") as behind:
        assert await texts(behind) == ["here"] * 2
    assert connections(pooled, "behind") == 0
