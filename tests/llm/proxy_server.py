"""A proxy for the tests: whatever name it is asked for, it leads to one port of this machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress

from tests.llm.raw_server import ThreadServer


class _Handler(socketserver.StreamRequestHandler):
    server: ProxyServer
    rbufsize = 0

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        self.server.heads.append(head.decode("latin-1"))
        if self.server.refuses:
            self.wfile.write(b"HTTP/1.1 407 Who are you?\r\ncontent-length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server.target)) as other:
            if head.startswith(b"CONNECT "):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                other.sendall(head)
            back = threading.Thread(target=pour, args=(other, self.connection))
            back.start()
            pour(self.connection, other)
            back.join()


def pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class ProxyServer(ThreadServer):
    """Forwards, and tunnels after ``CONNECT``, while it is entered.

    Attributes:
        target: the port that everything leads to.
        heads: of the requests that it was sent itself.
        refuses: whether it answers 407 instead.
    """

    def __init__(self, target: int) -> None:
        super().__init__(_Handler)
        self.target = target
        self.heads: list[str] = []
        self.refuses = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[str]:
        """The first line of each request."""
        return [head.partition("\r\n")[0] for head in self.heads]
