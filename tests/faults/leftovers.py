"""What a store may leave behind: threads, tasks, locks, open files."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import apsw
import trio

from tests.faults.report import Report


def store_threads() -> list[threading.Thread]:
    """The threads that belong to stores."""
    return [one for one in threading.enumerate() if one.name.startswith("asynchistory-")]


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/dev/fd"))


def open_sockets() -> set[str]:
    """The sockets that this process has open, as Linux names them."""
    gc.collect()
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder itself was one of them
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in links if link.startswith("socket:")}


def living_tasks() -> int:
    """How many tasks the running loop has."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


async def look_for_tasks(report: Report, before: int, patience: float = 10) -> None:
    """Note the tasks of the running loop that do not end although their store is closed."""
    with anyio.move_on_after(patience):
        while living_tasks() > before:
            await anyio.lowlevel.checkpoint()
    if (now := living_tasks()) > before:
        report.note("stranded", f"{now - before} tasks")


def look_for_leftovers(
    report: Report,
    path: Path,
    patience: float = 10,
    before: Collection[threading.Thread] = (),
) -> None:
    """Note the threads and locks that a store which is closed has left.

    ``before``: threads of other stores, which are still open.
    """
    for thread in store_threads():
        if thread in before:
            continue
        thread.join(patience)  # its last act was to say that it is done
        if thread.is_alive():
            report.note("stranded", f"the thread {thread.name}")
    connection = apsw.Connection(str(path))
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT").fetchall()
    except apsw.BusyError:
        report.note("stranded", f"a lock on {path.name}")
    connection.close()
