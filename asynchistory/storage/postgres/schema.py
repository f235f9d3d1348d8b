"""The schema in the database: made, brought up to date, and looked at before it is touched."""

from __future__ import annotations

from asynchistory.errors import ForeignDatabaseError, NewerSchemaError
from asynchistory.storage.postgres.address import Address
from asynchistory.storage.postgres.migrations import MIGRATIONS, SCHEMA_VERSION
from asynchistory.storage.postgres.sql import Statements

#: "AHIS", as the SQLite store calls itself: the class of our advisory locks.
LOCK_CLASS = 0x41484953
_VERSION = "asynchistory_schema"
_RELATIONS = (
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'S')"
)


async def prepare(db: Statements, address: Address) -> None:
    """Make sure that the schema is there and current.

    Any number of processes may do this at once: one does the work under an
    advisory lock, and the others find it done.

    Raises:
        ForeignDatabaseError: a schema of this name has other tables.
        NewerSchemaError: a newer version made it.
    """
    if await _version(db, address) == SCHEMA_VERSION:
        return
    await db.run("BEGIN")
    try:
        await db.run("SET LOCAL lock_timeout = '5min'; SET LOCAL statement_timeout = '10min'")
        await db.run("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK_CLASS, address.schema))
        # Looked at again under the lock: another process may have just done it.
        version = await _version(db, address)
        if version < SCHEMA_VERSION:
            await _migrate(db, address, version)
    except Exception:
        if db.connection.pgconn.status == 0:
            await db.run("ROLLBACK")
        raise
    await db.run("COMMIT")


async def _migrate(db: Statements, address: Address, version: int) -> None:
    if version == 0:
        # Only if it is missing: one that an administrator made needs no right to make others.
        found = await db.rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,))
        if not found:
            await db.run(f'CREATE SCHEMA "{address.schema}"')
        await db.run(f"CREATE TABLE {_VERSION}(version bigint NOT NULL)")
        await db.run(f"INSERT INTO {_VERSION} VALUES(0)")
    for step in MIGRATIONS[version:]:
        await db.run(step)
    await db.run(f"UPDATE {_VERSION} SET version = %s", (SCHEMA_VERSION,))


async def _version(db: Statements, address: Address) -> int:
    """The version of a schema that is ours or empty; 0 where there is none."""
    names = {name for (name,) in await db.rows(_RELATIONS, (address.schema,))}
    if not names:
        return 0
    if _VERSION not in names:
        raise ForeignDatabaseError(
            f"{address.url}: the schema {address.schema!r} has tables of another application; "
            "name another one in the URL (?schema=NAME)"
        )
    found: int = await db.scalar(f"SELECT version FROM {_VERSION}")
    if found > SCHEMA_VERSION:
        raise NewerSchemaError(found, SCHEMA_VERSION)
    return found
