"""What a driver's error means to a caller. Its own text may quote content, and is not used."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from asynchistory.errors import (
    AsyncHistoryError,
    BusyError,
    StorageError,
    StorageUnavailableError,
)

#: Errors that end a transaction because of others; done again, it may well go through.
RETRIED = (errors.SerializationFailure, errors.DeadlockDetected)
_BUSY = (errors.LockNotAvailable, *RETRIED)
_AUTHORIZATION = (errors.InvalidAuthorizationSpecification, errors.InvalidPassword)
#: What is there until somebody drops it, or, behind a pooler of transactions, for one of them.
_MISSING = (
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.UndefinedColumn,
    errors.InvalidSqlStatementName,
    errors.DuplicatePreparedStatement,
)
#: What is refused while a server starts, stops, or has too many connections.
_PASSING = (
    errors.CannotConnectNow,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.TooManyConnections,
)
_STARTING = (
    "starting up",
    "shutting down",
    "terminating",
    "recovery",
    "too many",
    "remaining connection",
)
#: What libpq says of certificates and of servers without TLS; not of a connection that was cut.
_UNSAFE = re.compile(r"certificate|support SSL|sslmode| alert ")
_NO_DATABASE = re.compile('FATAL:  database ".*" does not exist')


def translate(error: BaseException, url: str) -> AsyncHistoryError:
    """The error that callers get."""
    if isinstance(error, AsyncHistoryError):
        return error
    if isinstance(error, _BUSY):
        return BusyError(f"{url}: others hold a lock on it; nothing was written, try again")
    if isinstance(error, errors.QueryCanceled):
        return BusyError(
            f"{url}: a statement took longer than statement_timeout and was ended; nothing was "
            "written: try again, or raise it in the URL"
        )
    reason = _reason(error)
    kind = StorageUnavailableError if reason else StorageError
    code = getattr(error, "sqlstate", None)
    return kind(
        f"{url}: {reason or 'the server refused'} ({type(error).__name__}"
        + (f", SQLSTATE {code}" if code else "")
        + ")"
    )


def _reason(error: BaseException) -> str | None:
    refusal = _refusal(error)
    if isinstance(error, errors.InvalidCatalogName) or _NO_DATABASE.search(refusal):
        return "there is no such database; create it"
    if _starting(error):
        return "the server starts, stops or has no free connection; try again"
    if isinstance(error, _AUTHORIZATION) or refusal:
        return "the server does not accept this user or password; check the URL"
    if isinstance(error, errors.InsufficientPrivilege):
        return "the user may not do this; grant it CREATE on the database, or make the schema"
    if isinstance(error, (errors.DiskFull, errors.OutOfMemory)):
        return "the server has no room left; free some and try again"
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return "this server only reads, as a replica does; give the URL of the primary"
    if isinstance(error, _MISSING):
        return (
            "a table or function of ours is missing; restore a backup, or have your pooler pool "
            "sessions"
        )
    if _unsafe(error):
        return (
            "the connection cannot be as safe as sslmode asks; check it, sslrootcert and the "
            "server's certificate"
        )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, OSError)):
        return "the server cannot be reached or hung up; check that it runs, and try again"
    return None


def passing(error: BaseException) -> bool:
    """Whether to connect may go through a moment later."""
    if _starting(error):
        return True
    unknown = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return unknown and not _refusal(error) and not _unsafe(error)


def _starting(error: BaseException) -> bool:
    refusal = _refusal(error)
    return isinstance(error, _PASSING) or any(word in refusal for word in _STARTING)


def _unsafe(error: BaseException) -> bool:
    # Without the names that libpq quotes: those of hosts and files.
    text = re.sub('"[^"]*"', "", str(error))
    return isinstance(error, psycopg.OperationalError) and bool(_UNSAFE.search(text))


def _refusal(error: BaseException) -> str:
    """What the server said when it refused a connection, for which libpq gives no code."""
    text = str(error) if getattr(error, "sqlstate", None) is None else ""
    return text if isinstance(error, psycopg.OperationalError) and "FATAL" in text else ""
