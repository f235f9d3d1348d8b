"""What the demo does: one manager object, one database, callers of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

import anyio
import click

from asynchistory.cli.demo_talk import batches, user_of
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import MAX_PAGE, HistoryQuery
from asynchistory.records import Message
from asynchistory_compat import BlockingInLoopWarning, HistoryManager

CONVERSATIONS = 100
THREADS = 10
#: The child is killed once it has said so many times that something is stored.
ACKNOWLEDGEMENTS = 400


class Phase(NamedTuple):
    """Conversations that were written in one way."""

    name: str
    conversations: int
    appends: int
    seconds: float

    @property
    def rate(self) -> float:
        """Appends a second."""
        return self.appends / max(self.seconds, 1e-9)


class Kill(NamedTuple):
    """What a killed process had been told is stored, and what of that is not."""

    acknowledged: int
    lost: int


class Demo:
    """The steps of the demo. The manager is one object, used from every loop and thread.

    Args:
        history: the manager, over a database file.
        sync: the same manager for synchronous code, opened.
    """

    def __init__(self, history: AsyncHistoryManager, sync: HistoryManager) -> None:
        self.history = history
        self.sync = sync
        # The demo can be run again and again over one database.
        self.prefix: str = f"demo-{uuid4().hex[:6]}"

    def session_id(self, kind: str, number: int = 0) -> str:
        """The id of a conversation of the demo."""
        return f"{self.prefix}-{kind}-{number:02}"

    def in_loop(self, backend: Literal["asyncio", "trio"]) -> Phase:
        """All conversations at once, a task each, in an event loop of this kind."""
        return anyio.run(self._write_all, backend, backend=backend)

    async def _write_all(self, kind: str) -> Phase:
        appends: list[int] = []
        begin = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(CONVERSATIONS):
                tasks.start_soon(self._write, kind, number, appends)
        phase = Phase(kind, CONVERSATIONS, sum(appends), time.perf_counter() - begin)
        await self._read_twice(kind)
        return phase

    async def _write(self, kind: str, number: int, appends: list[int]) -> None:
        session_id = self.session_id(kind, number)
        await self.history.create_session(session_id, user_id=user_of(number))
        for batch in batches(session_id, number):
            await self.history.append(session_id, *batch)
            appends.append(1)

    async def _read_twice(self, kind: str) -> None:
        for number in 2 * [*range(CONVERSATIONS)]:
            await self.history.last(self.session_id(kind, number), 20)

    def in_threads(self) -> Phase:
        """As many conversations from plain threads, which know of no event loop."""
        appends: list[int] = []
        begin = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            # list() brings the error of a thread that failed here.
            list(threads.map(partial(self._write_some, appends), range(THREADS)))
        phase = Phase("threads", CONVERSATIONS, sum(appends), time.perf_counter() - begin)
        for number in 2 * [*range(CONVERSATIONS)]:
            self.sync.last(self.session_id("threads", number), 20)
        return phase

    def _write_some(self, appends: list[int], first: int) -> None:
        for number in range(first, CONVERSATIONS, THREADS):
            session_id = self.session_id("threads", number)
            self.sync.create_session(session_id, user_id=user_of(number))
            for batch in batches(session_id, number):
                self.sync.append(session_id, *batch)
                appends.append(1)

    def inside_a_loop(self) -> int:
        """A synchronous call where a loop is running: the one that asyncio.run cannot make."""

        async def caller() -> int:
            query = HistoryQuery(self.session_id("asyncio"), limit=50)
            with warnings.catch_warnings():
                # It blocks the loop while it waits, and says so. Here that is the point.
                warnings.simplefilter("ignore", BlockingInLoopWarning)
                return len(self.sync.query_history(query))

        return anyio.run(caller)

    def kill_a_writer(self, path: Path) -> Kill:
        """SIGKILL for a process in the midst of writing; then count what it was promised."""
        prefix = f"{self.prefix}-killed"
        acknowledged = _acknowledgements(path, prefix)
        lost = sum(self._missing(session_id, seqs) for session_id, seqs in acknowledged.items())
        return Kill(sum(map(len, acknowledged.values())), lost)

    def _missing(self, session_id: str, seqs: set[int]) -> int:
        there: set[int] = set()
        after: str | None = None
        while True:
            query = HistoryQuery(session_id, limit=MAX_PAGE, after=after)
            page = self.sync.query_history(query, level="fresh")
            for record in page:
                if isinstance(record, Message) and record.text == f"message {record.seq}":
                    there.add(record.seq)
            if (after := page.next) is None:
                return len(seqs - there)


def _acknowledgements(path: Path, prefix: str) -> dict[str, set[int]]:
    program = [sys.executable, "-m", "asynchistory.cli.demo_child", str(path), prefix]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found: defaultdict[str, set[int]] = defaultdict(set)
    received = 0
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        try:
            for line in iter(child.stdout.readline, b""):
                session_id, seq = line.split()
                found[session_id.decode()].add(int(seq))
                received += 1
                if received == ACKNOWLEDGEMENTS:
                    child.kill()  # what it said until then is still in the pipe, and is read
        finally:
            child.kill()
    if received < ACKNOWLEDGEMENTS:
        raise click.ClickException("the process that was to be killed ended by itself; see above")
    return dict(found)
