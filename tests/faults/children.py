"""Processes that run one function of a campaign and tell, line by line, how far they are."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.report import FINDINGS, Report

ROOT = Path(__file__).resolve().parents[2]
#: A child that says nothing for so long hangs.
PATIENCE = 60.0
#: What a child says last that tells its findings.
DONE = "done"


def program(function: str, *arguments: object) -> list[str]:
    """The command line that calls ``function``, named as "module:function", with texts."""
    module, _, name = function.partition(":")
    script = f"import sys; from {module} import {name}; {name}(*sys.argv[1:])"
    return [sys.executable, "-c", script, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One in which this checkout is imported, tests included."""
    search = [str(ROOT), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))}


def say(line: str) -> None:
    """Tell the parent, in one write, so that no line is mixed with another task's."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def tell(report: Report) -> None:
    """Tell the parent what was found since the last time."""
    say(json.dumps(report.as_dict()))


def wait_for_go() -> None:
    """Wait for the parent, who starts children ahead of their turn."""
    if not sys.stdin.readline():
        sys.exit(0)


class Child:
    """A child, and the lines that it said."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            program(function, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self._said = b""

    def go(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it said last tells why
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()

    @property
    def lines(self) -> list[str]:
        """What it said so far. A line that was cut off was not said."""
        return self._said.decode().split("\n")[:-1]

    def listen(self, lines: int, patience: float = PATIENCE) -> bool:
        """Wait until it has said so many lines. False if it hangs or ended before."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while self._said.count(b"\n") < lines:
                if not selector.select(patience):
                    return False
                said = os.read(descriptor, 65536)
                if not said:
                    return False
                self._said += said
        return True

    def end(self) -> tuple[int, str]:
        """Wait for its end: how it ended (-9 if it hung, and was killed), and its complaints."""
        try:
            said, complaints = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, complaints = self.process.communicate()
        self._said += said
        return self.process.returncode, complaints.decode(errors="replace").strip()

    def kill(self) -> tuple[int, str]:
        """Kill it: how it ended, and its complaints."""
        self.process.kill()
        return self.end()


def follow(report: Report, child: Child, patience: float = PATIENCE) -> None:
    """Take over what a child finds, until it is done or hangs. Other lines say where it is."""
    heard, where = 0, "start"
    while DONE not in child.lines:
        if not child.listen(heard + 1, patience):
            code, complaints = child.kill()
            finding = "stuck" if code == -9 else "errors"
            report.note(finding, f"the child ended with {code} at {where}: {complaints[-300:]}")
            return
        for line in child.lines[heard:]:
            if line.startswith("{"):
                report.add(_told(json.loads(line)))
            else:
                where = line
        heard = len(child.lines)
    child.end()


def _told(said: dict[str, Any]) -> Report:
    names = ("acknowledged", "stored", "messages", *FINDINGS)
    figures = {name: Counter(said[name]) for name in ("counts", "peaks")}
    return Report("", 0, **figures, **{name: said[name] for name in names})
