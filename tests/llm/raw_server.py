"""A server for the tests of connections: it counts them, and answers as it is told."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeAlias

#: Makes the body of an answer from the request's JSON; None hangs up without one.
Answer: TypeAlias = Callable[[Any], Any]
PATIENCE = 30.0


def openai(request: Any) -> Any:
    """OpenAI's format; the answer is the question."""
    text = request["messages"][-1]["content"]
    choice = {"index": 0, "finish_reason": "stop"}
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{**choice, "message": message}],
    }


def anthropic(request: Any) -> Any:
    """Anthropic's format; the answer is the question."""
    text = request["messages"][-1]["content"]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


class _Handler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        try:
            while self._take():
                continue
        except (OSError, ssl.SSLError):  # the client is gone
            return

    def _take(self) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return False
            head += line
        names = (line.partition(b":") for line in head.lower().splitlines()[1:])
        headers = {name.decode(): value.strip().decode("latin-1") for name, _, value in names}
        length = int(headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            return False
        self.server.requests.append(head)
        answer = self.server.answer(json.loads(body) if body else None)
        if answer is None:
            return False
        content = json.dumps(answer).encode()
        start = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        self.wfile.write(start + b"content-length: %d\r\n\r\n" % len(content) + content)
        return True


class ThreadServer(socketserver.ThreadingTCPServer):
    """Serves on a port of its own, in threads, while it is entered."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[socketserver.StreamRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class RawServer(ThreadServer):
    """Answers every request as it is told.

    Attributes:
        requests: the head of each request so far.
        connections: how many there were so far.
        open: how many there are.
    """

    def __init__(self, answer: Answer = openai, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_Handler)
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = self.open = 0
        self._tls = tls
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def has(self, connections: int) -> bool:
        """Wait until so many connections are open."""
        with self._changed:
            return self._changed.wait_for(lambda: self.open == connections, PATIENCE)

    def close_all(self) -> None:
        """Close all connections."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._count(+1)
        self._sockets.add(request)
        try:
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except (OSError, ssl.SSLError):
            self.shutdown_request(request)
        finally:
            self._sockets.discard(request)
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self.open += change
            self.connections += change > 0
            self._changed.notify_all()
