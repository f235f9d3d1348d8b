"""The URL of a PostgreSQL store: where the server is, and what is ours of it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import conninfo

from asynchistory.errors import ConfigurationError

#: Where our tables are, if the URL does not say.
SCHEMA = "asynchistory"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OURS = ("schema", "pool", "lock_timeout", "statement_timeout", "pooler")
_SECRET = ("password", "sslpassword")


class Address(NamedTuple):
    """What a URL says.

    Attributes:
        url: it, without secrets.
        params: what libpq is given.
        settings: the statements that each connection begins with. Not given along with
            ``params``, for poolers refuse or forget that.
        schema: the schema of our tables.
        pool: connections that one event loop reads by, at most.
        pooler: the URL is that of a pooler, which pools sessions.
        lock_timeout: seconds to wait for what others have locked.
        statement_timeout: seconds that one statement may take.
    """

    url: str
    params: dict[str, Any]
    settings: str
    schema: str
    pool: int
    pooler: bool
    lock_timeout: float
    statement_timeout: float


def parse(url: str) -> Address:
    """Read a URL: ``postgresql://user:password@host:port/database?schema=name``.

    Whatever else stands behind the ``?`` is libpq's, such as ``sslmode``.

    Raises:
        ConfigurationError: it cannot be understood. The message has no part of it.
    """
    try:
        parts = urlsplit(url)
        asked = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        ours = {name: value for name, value in asked if name in _OURS}
        theirs = [(name, value) for name, value in asked if name not in _OURS]
        bare = urlunsplit(parts._replace(query=urlencode(theirs, quote_via=quote)))
        params = conninfo.conninfo_to_dict(bare)
        _ = parts.port  # which raises if it is no number
    except (ValueError, psycopg.Error):
        # From None: a message of libpq may quote the URL, and so a password.
        raise ConfigurationError(
            "a PostgreSQL URL is postgresql://user:password@host:port/database, its parts "
            "percent-encoded, with options such as ?sslmode=verify-full&schema=NAME"
        ) from None
    schema = ours.get("schema", SCHEMA)
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ConfigurationError("schema must be small letters, digits and underscores")
    lock_timeout = _number(ours, "lock_timeout", 30.0)
    statement_timeout = _number(ours, "statement_timeout", 60.0)
    pool = _number(ours, "pool", 4.0)
    params.setdefault("connect_timeout", "10")
    params.setdefault("application_name", "asynchistory")
    params.setdefault("gssencmode", "disable")
    params["client_encoding"] = "UTF8"
    settings = (
        f'SET search_path = "{schema}"; SET lock_timeout = {int(lock_timeout * 1000)}; '
        f"SET statement_timeout = {int(statement_timeout * 1000)}"
    )
    pooler = ours.get("pooler")
    if pooler not in (None, "session"):
        raise ConfigurationError("pooler in a PostgreSQL URL can only be session")
    return Address(
        url=_without_secrets(url),
        params=params,
        settings=settings,
        schema=schema,
        pool=int(pool),
        pooler=pooler is not None,
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
    )


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(given.get(name, default))
    except ValueError:
        value = -1
    if not 1e-3 <= value <= 86_400 or (name == "pool" and value < 1):
        raise ConfigurationError(f"{name} in a PostgreSQL URL is a number from 1 to 86400")
    return value


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SECRET]
    return urlunsplit(
        parts._replace(
            netloc=f"{login.partition(':')[0]}{at}{host}", query=urlencode(kept, safe="/")
        )
    )
