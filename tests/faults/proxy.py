"""A proxy in front of a server: it passes bytes on, and cuts connections when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Listens on a port of this machine and connects each caller with the server.

    Attributes:
        port: where it listens.
        cuts: connections that it has cut.
        refused: connections that it has not let through.
        change: what it passes on of what it was sent; None cuts the connection.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self.refused = 0
        self.change: Callable[[bytes], bytes | None] = lambda data: data
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        #: Bytes, in either direction, after which the connection that passes the last is cut.
        self._left: int | None = None
        self._closed = False
        self._refusing = False
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Cut a connection in the middle of what it passes, after so many further bytes."""
        with self._lock:
            self._left = size

    def refuse(self, refusing: bool) -> None:
        """Cut all connections, and let no new one through for as long as this is on."""
        with self._lock:
            self._refusing = refusing
            pairs = list(self._pairs)
        if refusing:
            for pair in pairs:
                self._cut(pair)

    def silence(self, silent: bool) -> None:
        """Let nothing pass for as long as this is on, with all connections left open."""
        if silent:
            self._flows.clear()
        else:
            self._flows.set()

    def close(self) -> None:
        self._closed = True
        self._flows.set()
        self._listener.close()
        for pair in list(self._pairs):
            self._cut(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._closed:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._refusing:
                    client.close()
                    self.refused += 1
                    continue
                pair = (client, self._connect())
                with self._lock:
                    self._pairs.append(pair)
                for one, other in (pair, pair[::-1]):
                    threading.Thread(
                        target=self._pass, args=(one, other, pair), daemon=True
                    ).start()

    def _pass(
        self, one: socket.socket, other: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._flows.wait()
                changed = self.change(data)
                if changed is None:
                    self.cuts += 1
                    break
                data = changed
                allowed = self._allowed(len(data))
                other.sendall(data[:allowed])
                if allowed < len(data):
                    self.cuts += 1
                    break
        self._cut(pair)

    def _allowed(self, size: int) -> int:
        with self._lock:
            if self._left is None:
                return size
            if size <= self._left:
                self._left -= size
                return size
            allowed, self._left = self._left, None
            return allowed

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def proxy_to(params: dict[str, str]) -> Iterator[Proxy]:
    """A proxy to the server of libpq's parameters."""
    host, port = params["host"], int(params.get("port", 5432))

    def connect() -> socket.socket:
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    proxy = Proxy(connect)
    try:
        yield proxy
    finally:
        proxy.close()
