"""HTTP that belongs to no event loop: one client for all of them, one pool of connections each.

A connection belongs to the loop that opened it. So the client is shared and
the connections are not: the transport keeps one pool per event-loop run and
closes it when that run ends. This is the only module that imports httpx.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncGenerator
from functools import cache
from urllib.parse import urlsplit

import httpx

from asynchistory.errors import ConfigurationError
from asynchistory.runs import at_end, current_run

HTTPError = httpx.HTTPError
RemoteProtocolError = httpx.RemoteProtocolError
Response = httpx.Response
TimeoutException = httpx.TimeoutException

#: Answers take long, so many are under way at once; httpx's own 100 would queue them.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RunLocalTransport(httpx.AsyncBaseTransport):
    """Sends each request through the pool of the event loop that it comes from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the run itself. Its entry goes when the run ends, so nothing leaks.
        self._pools: dict[object, tuple[httpx.AsyncHTTPTransport, AsyncGenerator[None, None]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See :class:`httpx.AsyncBaseTransport`."""
        run = current_run()
        found = self._pools.get(run)
        if found is None:
            found = await self._open(run)
        return await found[0].handle_async_request(request)

    async def aclose(self) -> None:
        """Close the pool of the running event loop; the others close when their loops end."""
        found = self._pools.get(current_run())
        if found is not None:
            await found[1].aclose()

    async def _open(
        self, run: object
    ) -> tuple[httpx.AsyncHTTPTransport, AsyncGenerator[None, None]]:
        pool = httpx.AsyncHTTPTransport(verify=_ssl_context(), limits=_LIMITS)

        async def close() -> None:
            with self._lock:
                self._pools.pop(run, None)
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


def http_client(transport: RunLocalTransport, timeout: float) -> httpx.AsyncClient:
    """A client for any event loop; ``timeout`` in seconds for each step of a request."""
    return httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False)


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
