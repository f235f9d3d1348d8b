"""HTTP that belongs to no event loop: one client for all of them, one pool of connections each.

The only module that imports httpx. SDKs that have moved on to httpx2, which
continues it, get the same transport over that one.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self, cast
from urllib.parse import urlsplit

import anyio
import httpcore as _httpcore  # noqa: F401 - httpx would load it in the midst of a request
import httpx

from asynchistory.environment import Secret
from asynchistory.errors import ConfigurationError
from asynchistory.llm.pools import RunPools, cut_tracebacks
from asynchistory.llm.proxies import LOOPBACK, proxies

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

#: Connections that wait for their next request, at most, in each run of a loop.
KEPT = 100
#: Seconds for which they do. Many servers, uvicorn among them, wait for five: a client that
#: does too sends its next request just when they hang up.
IDLE = 4.0
#: A header's value, as h11 takes it.
_VALUE = re.compile(rb"([^\0\s]+([ \t]+[^\0\s]+)*)?")
#: Seconds that the end of an answer may take that nobody needs any more.
_PATIENCE = 0.1


class RunLocalTransport(httpx.AsyncBaseTransport):
    """Sends each request through the pool of the event loop that it comes from.

    Closing it closes nothing, for others use its pools too: the loops close them.

    Args:
        library: httpx, or httpx2, which has the same names.
        proxy: what all requests go through; None goes directly.
    """

    def __init__(self, library: Any, proxy: Secret | None = None) -> None:
        def make(keep: bool) -> httpx.AsyncHTTPTransport:
            # Answers take long, so many are under way at once: a limit would queue them.
            limits = library.Limits(
                max_connections=None,
                max_keepalive_connections=KEPT * keep,
                keepalive_expiry=IDLE,
            )
            transport = library.AsyncHTTPTransport(
                verify=_ssl_context(), limits=limits, proxy=proxy
            )
            return cast(httpx.AsyncHTTPTransport, transport)

        #: Each library takes streams of its own kind alone.
        self._chunks: Any = type("_Chunks", (_Chunks, library.AsyncByteStream), {})
        self._body: Any = type("_Body", (_Body, library.AsyncByteStream), {})
        self._bytes: type[httpx.ByteStream] = library.ByteStream
        self._protocol_error: type[httpx.LocalProtocolError] = library.LocalProtocolError
        self.pools: RunPools[httpx.AsyncHTTPTransport] = RunPools(make)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See :class:`httpx.AsyncBaseTransport`."""
        before = sys.exc_info()[1]
        self._check(request)
        if isinstance(request.stream, self._bytes):
            request.stream = self._body(b"".join(request.stream))
        pool = await self.pools.here()
        try:
            response = await _send(pool, request)
            response.stream = self._chunks(response.stream)
            return response
        except BaseException as error:
            cut_tracebacks(error, before)
            raise

    def _check(self, request: httpx.Request) -> None:
        # What sends it would quote the value, in its error and in a log.
        bad = [name for name, value in request.headers.raw if not _VALUE.fullmatch(value)]
        if bad:
            names = b", ".join(bad).decode("latin-1")
            raise self._protocol_error(
                f"no header may have the characters of this one: {names}", request=request
            )


async def _send(pool: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
    """Send it, and close the connection that was opened for it if that is cut short.

    httpcore leaves one open that was cancelled in the midst of its TLS handshake.
    """
    opened: list[Any] = []
    extensions = request.extensions
    others = extensions.get("trace")

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            opened.append(info["return_value"])
        if others is not None:
            await others(event, info)

    request.extensions = {**extensions, "trace": trace}
    try:
        return await pool.handle_async_request(request)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for stream in opened:
                await stream.aclose()
        raise
    finally:
        request.extensions = extensions


class _Body:
    """A request's body.

    httpx's own is read by an async generator, which a connection that breaks leaves
    unfinished; trio warns of those.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left: list[bytes] = []

    def __aiter__(self) -> Self:
        self._left = [self._content]
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class _Chunks:
    """An answer's body, which leaves nothing behind when it is closed before its end.

    httpx reads httpcore's async generators through one of its own. Closing that leaves
    the others as they are, which trio warns of. Going on to read from the closed connection
    ends them all.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            raise StopAsyncIteration
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._chunks = None
            raise

    async def aclose(self) -> None:
        """Free the connection."""
        await self._stream.aclose()
        if self._chunks is not None:
            with anyio.move_on_after(_PATIENCE, shield=True), suppress(Exception):
                async for _ in self._chunks:
                    pass


@cache
def _ssl_context() -> ssl.SSLContext:
    # Nearly all that a client costs in time and memory, so there is one a process.
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(
            f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror}"
        ) from None


@cache
def run_local_transport(library: str, proxy: Secret | None = None) -> RunLocalTransport:
    """The process's transport over this library, so that all share the connections of a loop."""
    return RunLocalTransport(import_module(library), proxy)


def http_client(timeout: float, library: str = "httpx") -> httpx.AsyncClient:
    """A client for any event loop.

    It holds nothing open itself, so it need not be closed; closing it ends its own use.

    Args:
        timeout: seconds for each step of a request.
        library: ``httpx``, or ``httpx2`` for a client of that one.

    Raises:
        ConfigurationError: the library is not installed, or the environment names a proxy
            that cannot be used.
    """
    if library not in ("httpx", "httpx2") or find_spec(library) is None:
        raise ConfigurationError(f"there is no {library!r} here; use httpx, or pip install httpx2")
    through = {
        pattern: None if proxy is None else _through(library, proxy)
        for pattern, proxy in proxies().items()
        if _is_url(pattern)
    }
    client = import_module(library).AsyncClient(
        transport=run_local_transport(library),
        mounts=through,
        timeout=timeout,
        follow_redirects=False,
    )
    return cast(httpx.AsyncClient, client)


def _through(library: str, proxy: Secret) -> RunLocalTransport:
    try:
        scheme = httpx.Proxy(proxy).url.scheme
    except (httpx.InvalidURL, ValueError):
        scheme = ""
    if not scheme or (scheme.startswith("socks") and find_spec("socksio") is None):
        raise ConfigurationError(
            "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY has to be http://, https://, or after "
            "pip install 'httpx[socks]' socks5://"
        )
    return run_local_transport(library, proxy)


def _is_url(pattern: str) -> bool:
    """Whether it can be matched; an entry of ``NO_PROXY`` that cannot is passed over."""
    try:
        httpx.URL(pattern)
    except httpx.InvalidURL:
        return False
    return True


async def read_on(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of an answer that is complete, so that its connection can be used again.

    A server that does not send the end loses the connection, and nobody waits for it.
    """
    with anyio.move_on_after(_PATIENCE):
        async for _ in chunks:
            pass


async def unwind(response: httpx.Response, chunks: AsyncIterator[bytes]) -> None:
    """Close a response that was left before its end, and the generators it was read through.

    httpx reads through async generators inside each other, and closing the outermost leaves
    the others as they are, which trio warns of. Going on to read ends them all.
    """
    with anyio.move_on_after(_PATIENCE, shield=True):
        await response.aclose()
        with suppress(Exception):
            async for _ in chunks:
                pass


def post(
    client: httpx.AsyncClient, url: str, content: bytes, headers: dict[str, str]
) -> httpx.Request:
    """A request of ``client`` with this body."""
    return httpx.Request(
        "POST",
        url,
        headers={**client.headers, **headers},
        content=content,
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
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigurationError(
            f"base_url {parts.scheme}://{parts.hostname} would send the key unencrypted; use https"
        )
    return base_url.rstrip("/")
