"""uvicorn in a thread of its own, started and stopped from any other.

The only module that needs uvicorn: it is imported when a server starts.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from typing import Any

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from asynchistory.testing.exchanges import HANG_UP, Receive, Scope, Send
from asynchistory.testing.loopback_app import LoopbackApp
from asynchistory.testing.signals import Signal

#: Turns of the event loop in which a connection that has been accepted gets its transport.
_ACCEPTING_TURNS = 100


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also lets the application close the connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not through Config, which would change uvicorn's loggers for the whole process.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the application what it closes the connection with."""
        super().connection_made(transport)
        app = self.app

        async def with_hang_up(scope: Scope, receive: Receive, send: Send) -> None:
            extensions = {**scope.get("extensions", {}), HANG_UP: transport.close}
            await app({**scope, "extensions": extensions}, receive, send)

        self.app = with_hang_up


class _Server(uvicorn.Server):
    """uvicorn without its polling: it stops when it is told to, and cuts what is open."""

    def __init__(self, config: uvicorn.Config, stop: Signal) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        await self._stop.wait_async()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections and wait until nothing runs."""
        await self._finish_accepting()
        for server in self.servers:
            server.close()
        while self.server_state.connections or len(asyncio.all_tasks()) > 1:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)

    async def _finish_accepting(self) -> None:
        """Let asyncio finish what it is accepting; a server closed under it leaks the socket.

        Not for ever, since on Windows a task that accepts is always there.
        """
        own = asyncio.current_task()
        for _ in range(_ACCEPTING_TURNS):
            if asyncio.all_tasks() <= self.server_state.tasks | {own}:
                return
            await asyncio.sleep(0)


class ServerThread:
    """Serves an application on a free port of 127.0.0.1, from its construction until `stop`.

    Args:
        app: the application.
    """

    def __init__(self, app: LoopbackApp) -> None:
        self._stop = Signal()
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        self._server = _Server(config, self._stop)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        # From here on a client can connect: the kernel keeps it until the thread has started.
        self.port: int = self._socket.getsockname()[1]
        self._running = threading.Lock()
        self._running.acquire()
        # In a context of its own: the caller's may say that it is inside an event loop.
        self._thread = threading.Thread(
            target=contextvars.Context().run,
            args=(self._run,),
            name="asynchistory-loopback-llm",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Cut all connections and wait until the thread has ended. Takes milliseconds."""
        self._stop.set()
        # Not join() alone: in a running event loop it is what watchdogs such as blockbuster
        # forbid, and there it is meant. What is left of the thread then is its last steps.
        with self._running:
            pass
        while self._thread.is_alive():
            continue

    def _run(self) -> None:
        try:
            anyio.run(self._server.serve, [self._socket], backend="asyncio")
        finally:
            self._socket.close()
            self._running.release()
