"""HTTP that belongs to no event loop: one client for all of them, one pool of connections each.

A connection belongs to the loop that opened it. So the client is shared and
the connections are not: the transport keeps one pool per event-loop run and
closes it when that run ends. This is the only module that imports httpx.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit

import anyio
import httpx

from asynchistory.errors import ConfigurationError
from asynchistory.forks import in_child, own_lock
from asynchistory.runs import at_end, current_run

HTTPError = httpx.HTTPError
Request = httpx.Request
Response = httpx.Response
TimeoutException = httpx.TimeoutException
#: Nothing was answered, so the request may be sent again. Not after waiting in vain for
#: an answer (ReadTimeout): the model may be at work on it still, and that is paid for.
UNANSWERED = (
    httpx.NetworkError,
    httpx.ProxyError,
    httpx.RemoteProtocolError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.WriteTimeout,
)

#: Answers take long, so many are under way at once; httpx's own 100 would queue them.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
#: Seconds that the end of an answer may take that nobody needs any more.
_PATIENCE = 0.1
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RunLocalTransport(httpx.AsyncBaseTransport):
    """Sends each request through the pool of the event loop that it comes from."""

    def __init__(self) -> None:
        self._lock = own_lock(self, "_lock")
        # By the run itself. Its entry goes when the run ends, so nothing leaks.
        self._pools: dict[object, tuple[httpx.AsyncHTTPTransport, AsyncGenerator[None, None]]] = {}
        self._parents: list[object] = []
        in_child(self, "_forget")

    def _forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        # Kept, and so not closed: closing says goodbye to the server in the parent's name.
        self._parents.append(self._pools)
        self._pools = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See :class:`httpx.AsyncBaseTransport`."""
        run = current_run()
        found = self._pools.get(run)
        if found is None:
            found = await self._open(run)
        return await found[0].handle_async_request(request)

    async def _open(
        self, run: object
    ) -> tuple[httpx.AsyncHTTPTransport, AsyncGenerator[None, None]]:
        pool = httpx.AsyncHTTPTransport(verify=_ssl_context(), limits=_LIMITS)

        async def close() -> None:
            with self._lock:
                own = self._pools.get(run, (None,))[0] is pool
                if own:
                    del self._pools[run]
            if own:
                await pool.aclose()

        guard = at_end(close)
        with self._lock:
            found = self._pools.setdefault(run, (pool, guard))
        if found[0] is pool:
            await anext(guard)  # from now on the loop closes it at its end
        return found


@cache
def _ssl_context() -> ssl.SSLContext:
    # Nearly all that a client costs in time and memory, so there is one a process.
    return httpx.create_ssl_context()


#: One for the process, so that all instances share the connections of a loop.
_transport = RunLocalTransport()


def http_client(timeout: float) -> httpx.AsyncClient:
    """A client for any event loop; ``timeout`` in seconds for each step of a request.

    It holds nothing open itself, so it need not be closed.
    """
    return httpx.AsyncClient(transport=_transport, timeout=timeout, follow_redirects=False)


async def read_on(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of an answer that is complete, so that its connection can be used again.

    A server that does not send the end loses the connection, and nobody waits for it.
    """
    with anyio.move_on_after(_PATIENCE):
        async for _ in chunks:
            pass


async def unwind(response: httpx.Response, chunks: AsyncIterator[bytes]) -> None:
    """Close a response that was left before its end, and the generators it was read through.

    httpx and httpcore read through async generators inside each other, and closing
    the outermost leaves the others as they are, which trio warns of. Going on to
    read from the closed connection ends them all.
    """
    with anyio.move_on_after(_PATIENCE, shield=True):
        await response.aclose()
        with suppress(Exception):
            async for _ in chunks:
                pass


class _Body(httpx.AsyncByteStream):
    """A request's body.

    httpx's own is an async generator, which a connection that breaks leaves
    unfinished; trio warns of those.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, b""
        if not content:
            raise StopAsyncIteration
        return content


def post(
    client: httpx.AsyncClient, url: str, content: bytes, headers: dict[str, str]
) -> httpx.Request:
    """A request of ``client`` with this body."""
    # What httpx adds itself only where it makes the stream.
    added = {"host": httpx.URL(url).netloc.decode(), "content-length": str(len(content))}
    return httpx.Request(
        "POST",
        url,
        headers={**added, **client.headers, **headers},
        stream=_Body(content),
        extensions={"timeout": client.timeout.as_dict()},
    )


def checked_url(base_url: str) -> str:
    """The address of an API, without a slash at its end.

    Raises:
        ConfigurationError: it is no address, or plain http to another machine.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigurationError("base_url must look like https://host/v1, without credentials")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError(
            f"base_url {parts.scheme}://{parts.hostname} would send the key unencrypted; use https"
        )
    return base_url.rstrip("/")
