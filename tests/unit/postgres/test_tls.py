"""The PostgreSQL store over TLS.

The server from the wheel has none, so TLS ends at a proxy in front of it.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psycopg
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from asynchistory import AsyncHistoryManager, PostgresStorage
from asynchistory.storage.postgres.problems import passing, translate
from asynchistory.storage.postgres.waiting import Connection
from tests.contract.archiving import say
from tests.faults.proxy import Proxy
from tests.llm.certificates import AUTHORITY, NAME, issue
from tests.postgres import texts

pytestmark = pytest.mark.anyio

#: What a client asks for before TLS: https://www.postgresql.org/docs/current/protocol-flow.html
_ASKED = b"\0\0\0\x08\x04\xd2\x16\x2f"
_GONE = anyio.BrokenResourceError, anyio.ClosedResourceError


async def _pass(source: ByteStream, target: ByteStream) -> None:
    async for piece in source:
        await target.send(piece)
    await target.aclose()


@asynccontextmanager
async def encrypted(plain: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port at which the server of the port ``plain`` has TLS."""

    async def serve(client: ByteStream) -> None:
        try:
            async with client, await anyio.connect_tcp("127.0.0.1", plain) as server:
                assert await client.receive(8) == _ASKED
                await client.send(b"S")
                safe = await TLSStream.wrap(
                    client, server_side=True, ssl_context=context, standard_compatible=False
                )
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pass, safe, server)
                    tasks.start_soon(_pass, server, safe)
        except* (ssl.SSLError, anyio.EndOfStream, *_GONE):
            pass

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def at(url: str, port: int, **options: object) -> str:
    """The URL of a store through a proxy, at another port and with options of TLS."""
    start, _, rest = url.partition("127.0.0.1:")
    place, _, query = rest.partition("?")
    query = query.replace("sslmode=disable", "&".join(f"{k}={v}" for k, v in options.items()))
    return f"{start}127.0.0.1:{port}/{place.partition('/')[2]}?{query}"


async def test_what_is_small_and_large_goes_over_tls(
    cut: tuple[str, Proxy], tmp_path: Path, history: AsyncHistoryManager
) -> None:
    url, proxy = cut
    large = "ü" * 1_500_000
    async with encrypted(proxy.port, issue(tmp_path)) as port:
        safe = at(url, port, sslmode="verify-full", sslrootcert=tmp_path / AUTHORITY)
        async with AsyncHistoryManager(PostgresStorage(safe), level="fresh") as over:
            await over.append("chat", say(large))
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(over.append, "chat", say(str(number)))

            assert (await texts(over))[0] == large
            assert sorted((await texts(over))[1:]) == sorted(str(number) for number in range(100))
    assert len(await texts(history)) == 101


@pytest.mark.parametrize("fault", ["another authority", "another name", "no TLS"])
async def test_what_is_not_as_safe_as_asked_is_refused_at_once(
    cut: tuple[str, Proxy], tmp_path: Path, fault: str
) -> None:
    url, proxy = cut
    context = issue(tmp_path)
    trusted, other = tmp_path, tmp_path / "other"
    other.mkdir()
    issue(other)
    if fault == "another authority":
        trusted = other
    async with encrypted(proxy.port, context) as port:
        asked = at(
            url,
            proxy.port if fault == "no TLS" else port,
            sslmode="verify-full",
            sslrootcert=trusted / AUTHORITY,
        )
        if fault == "another name":
            asked = asked.replace("127.0.0.1", "another.example.test") + "&hostaddr=127.0.0.1"
            assert NAME not in asked
        with pytest.raises(psycopg.OperationalError) as caught:
            await Connection.dial(PostgresStorage(asked).address.params)

    assert not passing(caught.value)
    assert "sslmode" in str(translate(caught.value, "a URL"))


async def test_a_connection_cut_in_tls_is_made_again(
    cut: tuple[str, Proxy], tmp_path: Path
) -> None:
    url, proxy = cut
    async with encrypted(proxy.port, issue(tmp_path)) as port:
        safe = at(url, port, sslmode="require")
        async with AsyncHistoryManager(PostgresStorage(safe), level="fresh") as over:
            await over.append("chat", say("one"))
            proxy.refuse(True)
            with pytest.raises(psycopg.OperationalError) as caught:
                await Connection.dial(PostgresStorage(safe).address.params)
            proxy.refuse(False)

            assert passing(caught.value)
            await over.append("chat", say("two"), idempotency_key="2")
            assert await texts(over) == ["one", "two"]


def test_a_place_with_the_name_of_something_of_tls_is_no_fault_of_it() -> None:
    gone = 'connection to server on socket "/srv/certificates/.s.PGSQL.5432" failed: refused'

    assert passing(psycopg.OperationalError(gone))
