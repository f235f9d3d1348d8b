"""What the PostgreSQL store touches of psycopg that is not its public API is still there."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import _conninfo_attempts, errors, generators, waiting
from psycopg.adapt import Transformer

from asynchistory.storage.postgres.address import parse
from asynchistory.storage.postgres.arrays import blobs, integers, stored, texts, unstored
from asynchistory.storage.postgres.waiting import Connection


@pytest.fixture
async def connection(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.dial(parse(url).params)
    yield connection
    connection.discard()


def test_psycopg_has_what_we_touch_of_it() -> None:
    """If this fails after an upgrade, look at storage/postgres/waiting.py, then move the pin."""
    assert inspect.isgeneratorfunction(psycopg.AsyncConnection._connect_gen)
    parameters = inspect.signature(psycopg.AsyncConnection.wait).parameters
    assert list(parameters) == ["self", "gen", "interval", "timeout"]
    assert callable(_conninfo_attempts.conninfo_attempts)
    assert list(inspect.signature(errors.error_from_result).parameters) == ["result", "encoding"]
    assert callable(generators.execute)
    for name in ("dump_sequence", "types", "formats", "set_pgresult", "load_rows"):
        assert hasattr(Transformer, name)
    assert (waiting.WAIT_R, waiting.WAIT_W, waiting.WAIT_RW) == (1, 2, 3)
    assert (waiting.READY_R, waiting.READY_W, waiting.READY_RW) == (1, 2, 3)
    assert psycopg.__version__.startswith("3.3."), "pinned in pyproject.toml"


@pytest.mark.anyio
async def test_arrays_come_back_as_they_went(connection: Connection) -> None:
    for made, cast, wanted in (
        (integers([1, None, -(2**63)]), "bigint[]", [1, None, -(2**63)]),
        (texts(["", None, "ü\\\"'{},"]), "text[]", ["", None, "ü\\\"'{},"]),
        (blobs([b"\0\1", None, b""]), "bytea[]", [b"\0\1", None, b""]),
        (texts([]), "text[]", []),
    ):
        cursor = await connection.execute(f"SELECT %s::{cast}", (made,))
        assert (await cursor.fetchone())[0] == wanted


@pytest.mark.anyio
async def test_a_statement_is_repeated_whatever_its_values_need(connection: Connection) -> None:
    sql = "SELECT %s::bigint + 1, %s::text, NULL::text"
    for number in (1, 40_000, 2**40, 2, 40_001):  # psycopg sends them as three types
        for text in ("x", "ü", ""):
            assert await connection.repeat(sql, (number, text)) == [(number + 1, text, None)]
    with pytest.raises(errors.DivisionByZero):
        await connection.repeat("SELECT 1 / %s::int", (0,))
    with pytest.raises(errors.UndefinedTable):
        await connection.repeat("SELECT * FROM nothing WHERE x = %s", ("x",))
    await connection.execute("DEALLOCATE ALL")
    assert await connection.repeat("SELECT 1 / %s::int", (1,)) == [(1,)]
    assert connection.idle
    connection.discard()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await connection.repeat(sql, (1, "x"))


@pytest.mark.anyio
async def test_what_does_not_fit_the_sockets_buffer_is_sent_and_read(
    connection: Connection,
) -> None:
    large = "x" * 20_000_000
    cursor = await connection.execute("SELECT %s::text", (large,))
    assert (await cursor.fetchone())[0] == large


@pytest.mark.parametrize("text", ["", "a", "\\", "\0", "\\0", "\\\0", "a\\\\0\0\\b", "\\\\\0\0"])
def test_text_with_nuls_comes_back(text: str) -> None:
    assert "\0" not in stored(text)
    assert unstored(stored(text)) == text
