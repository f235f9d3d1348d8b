"""A TCP proxy that does to a connection what networks and servers do to it now and then."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias, cast

import anyio

from asynchistory.testing.signals import Signal

_Fault: TypeAlias = Literal["", "hang", "drop", "truncate"]


class FaultProxy:
    """Stands between a client and a server on this machine, and breaks what it is told to.

    ::

        with FaultProxy(6379) as proxy:
            connect(f"redis://127.0.0.1:{proxy.port}")
            proxy.hang()
            ...
            proxy.heal()

    It runs from ``with`` to the end of its block, in a thread of its own. Every method may be
    called from any thread, and has its effect when it returns: on connections that are open
    and on those that come.

    Args:
        port: the server's port.
        host: where the server is.
        tls: encrypts what goes between the client and the proxy.

    Attributes:
        port: where the proxy listens, on 127.0.0.1.
        accepted: how many connections there were so far.
    """

    def __init__(
        self, port: int, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.target: tuple[str, int] = (host, port)
        self.port: int = 0
        self.accepted: int = 0
        self._tls = tls
        self._fault: _Fault = ""
        self._delay = 0.0
        self._after = 0
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop = Signal()
        self._thread: threading.Thread

    # -- faults

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._pairs)

    def heal(self) -> None:
        """Do no more harm. What was broken stays broken; new connections work."""
        self._fault, self._delay = "", 0.0
        self._do(self._listen)

    def delay(self, seconds: float) -> None:
        """Hand on each piece of an answer so much later."""
        self._delay = seconds

    def hang(self) -> None:
        """Take connections and what comes over them, and hand on nothing."""
        self._fault = "hang"

    def drop_replies(self) -> None:
        """Hand on what the client says, and nothing of what the server answers."""
        self._fault = "drop"

    def truncate_replies(self, after: int) -> None:
        """End each connection behind so many bytes of the server's next answer."""
        self._after = after
        self._fault = "truncate"

    def cut(self) -> None:
        """Reset all connections that are open. New ones work."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Reset all connections, and take no new ones."""
        self._do(self._refuse)

    # -- its life

    def __enter__(self) -> Self:
        started = threading.Lock()
        started.acquire()
        # In a context of its own: the caller's may say that it is inside an event loop.
        self._thread = threading.Thread(
            target=contextvars.Context().run,
            args=(self._run, started),
            name="asynchistory-fault-proxy",
            daemon=True,
        )
        self._thread.start()
        with started:
            return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._do(self._refuse)
        self._stop.set()
        while self._thread.is_alive():
            continue

    def _run(self, started: threading.Lock) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._listen()
            started.release()
            await self._stop.wait_async()

        anyio.run(serve, backend="asyncio")

    def _do(self, work: Callable[[], object]) -> None:
        """Have this done in the proxy's loop, and wait for it: it takes no time."""
        done = threading.Lock()
        done.acquire()

        async def do() -> None:
            try:
                result = work()
                if asyncio.iscoroutine(result):
                    await result
            finally:
                done.release()

        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(do()))
        with done:
            return

    # -- in the proxy's thread

    async def _listen(self) -> None:
        if self._server is None:
            listening = socket.create_server(("127.0.0.1", self.port), backlog=2048)
            self._server = await self._loop.create_server(
                lambda: _Pair(self), sock=listening, ssl=self._tls
            )
            self.port = listening.getsockname()[1]

    def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._cut()

    def _cut(self) -> None:
        for pair in list(self._pairs):
            pair.end()

    def _pass_on(self, data: bytes, pair: _Pair, *, reply: bool) -> None:
        transport = pair.client if reply else pair.server
        if transport is None or self._fault == "hang" or (self._fault == "drop" and reply):
            return
        if self._fault == "truncate" and reply:
            transport.write(data[: self._after])
            transport.close()
        elif reply:
            pair.later(self._delay, transport.write, data)
        else:
            transport.write(data)


class _Pair(asyncio.Protocol):
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.client: asyncio.Transport
        self.server: asyncio.Transport | None = None
        self.early = b""  # what the client said before there was a server
        self.due = 0.0  # until when answers are held back
        self.task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server too."""
        self.client = cast(asyncio.Transport, transport)
        self.proxy.accepted += 1
        self.proxy._pairs.add(self)
        self.task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: _Upstream(self), *self.proxy.target)
        except OSError:
            self.end()

    def data_received(self, data: bytes) -> None:
        """The client says something."""
        if self.server is None:
            self.early += data
        else:
            self.proxy._pass_on(data, self, reply=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.end()

    def later(self, delay: float, work: Callable[..., object], *args: bytes) -> None:
        """Have this done after the delay, and after all that was held back before it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not delay and now >= self.due:
            work(*args)
            return
        self.due = max(now + delay, self.due + 1e-6)
        loop.call_at(self.due, work, *args)

    def end(self) -> None:
        """Reset both connections."""
        self.proxy._pairs.discard(self)
        self.task.cancel()
        for transport in (self.client, self.server):
            if transport is not None:
                transport.abort()


class _Upstream(asyncio.Protocol):
    def __init__(self, pair: _Pair) -> None:
        self.pair = pair

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pair = self.pair
        pair.server = cast(asyncio.Transport, transport)
        if pair not in pair.proxy._pairs:
            pair.server.abort()
        elif pair.early:
            pair.proxy._pass_on(pair.early, pair, reply=False)

    def data_received(self, data: bytes) -> None:
        if not self.pair.client.is_closing():
            self.pair.proxy._pass_on(data, self.pair, reply=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pair.later(0.0, self.pair.client.close)
