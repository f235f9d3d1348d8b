"""The process that the demo kills: it appends, and says of each append that it returned."""

from __future__ import annotations

import os
import sys
from functools import partial

import anyio

from asynchistory.config import open_history
from asynchistory.manager import AsyncHistoryManager

#: So many tasks write at once, each to a session of its own.
WRITERS = 8


async def _write(history: AsyncHistoryManager, session_id: str) -> None:
    number = 0
    while True:
        number += 1
        await history.record_message(session_id, "user", f"message {number}")
        # One write of one line: the pipe takes it whole or, killed before it, not at all.
        os.write(1, f"{session_id} {number}\n".encode())


async def _main(path: str, prefix: str) -> None:
    async with open_history(path) as history, anyio.create_task_group() as tasks:
        for writer in range(WRITERS):
            tasks.start_soon(_write, history, f"{prefix}-{writer}")


if __name__ == "__main__":
    anyio.run(partial(_main, *sys.argv[1:3]))
