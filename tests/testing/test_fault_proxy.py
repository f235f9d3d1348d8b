"""The proxy does what it is told, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from asynchistory.testing import FaultProxy


class Echo:
    """A server that says everything back in capitals."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    self.heard.append(data)
                    connection.sendall(data.upper())
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listening.shutdown(socket.SHUT_RDWR)
    server.listening.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.port) as proxy:
        yield proxy


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=30)


def say(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(4096)


def gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(4096) == b""
    except ConnectionResetError:
        return True


def silent(connection: socket.socket, data: bytes) -> bool:
    connection.sendall(data)
    connection.settimeout(0.1)
    try:
        connection.recv(4096)
    except TimeoutError:
        return True
    return False


def test_unharmed_it_hands_on_everything(proxy: FaultProxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert say(one, b"one") == b"ONE"
        assert say(other, b"other") == b"OTHER"
        assert say(one, b"again") == b"AGAIN"
        assert (proxy.accepted, proxy.connections) == (2, 2)


def test_cut_resets_what_is_open_and_nothing_else(proxy: FaultProxy) -> None:
    with connect(proxy) as one:
        say(one, b"one")
        proxy.cut()
        assert gone(one)
        assert proxy.connections == 0
    with connect(proxy) as other:
        assert say(other, b"other") == b"OTHER"


def test_refuse_takes_no_connections_until_it_is_healed(proxy: FaultProxy) -> None:
    with connect(proxy) as one:
        say(one, b"one")
        port = proxy.port
        proxy.refuse()
        assert gone(one)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    assert proxy.port == port
    with connect(proxy) as other:
        assert say(other, b"other") == b"OTHER"


def test_hang_hands_on_nothing(proxy: FaultProxy, echo: Echo) -> None:
    proxy.hang()
    with connect(proxy) as one:
        assert silent(one, b"one")
    assert echo.heard == []


def test_drop_hands_on_what_the_client_says(proxy: FaultProxy, echo: Echo) -> None:
    proxy.drop_replies()
    with connect(proxy) as one:
        assert silent(one, b"one")
    assert echo.heard == [b"one"]


@pytest.mark.parametrize("after", [0, 3, 100])
def test_truncate_ends_the_connection_in_the_answer(proxy: FaultProxy, after: int) -> None:
    proxy.truncate_replies(after)
    with connect(proxy) as one:
        one.sendall(b"abcdef")
        answer = b""
        while data := one.recv(4096):
            answer += data
    assert answer == b"ABCDEF"[:after]


def test_delay_keeps_the_order(proxy: FaultProxy) -> None:
    with connect(proxy) as one:
        say(one, b"first")
        proxy.delay(0.1)
        start = time.monotonic()
        one.sendall(b"late ")
        while proxy._delay and not _pending(proxy):
            continue
        proxy.heal()
        one.sendall(b"soon")
        answer = b""
        while len(answer) < 9:
            answer += one.recv(4096)
        assert answer == b"LATE SOON"
        assert time.monotonic() - start >= 0.1


def _pending(proxy: FaultProxy) -> bool:
    return any(pair.due for pair in proxy._pairs)


def test_a_server_that_is_not_there_is_a_cut_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with FaultProxy(port) as proxy, connect(proxy) as one:
        assert gone(one)


def test_leaving_the_block_cuts_what_is_open(echo: Echo) -> None:
    before = threading.active_count()
    with FaultProxy(echo.port) as proxy:
        one = connect(proxy)
        say(one, b"one")
    with one:
        assert gone(one)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert threading.active_count() <= before + 1  # the echo's thread ends in its own time


@pytest.mark.anyio
async def test_it_can_be_used_inside_an_event_loop(echo: Echo) -> None:
    with FaultProxy(echo.port) as proxy:
        proxy.refuse()
        proxy.heal()
        proxy.cut()
    assert proxy.connections == 0
