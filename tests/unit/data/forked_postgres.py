"""Uses a PostgreSQL store, forks, and uses it in the child and again in the parent."""

from __future__ import annotations

import os
import sys

import anyio

from asynchistory import AsyncHistoryManager, Message, PostgresStorage

storage = PostgresStorage(sys.argv[1])


async def say(history: AsyncHistoryManager, text: str) -> None:
    await history.append("forked", Message.of("user", text))


async def parent() -> None:
    async with AsyncHistoryManager(storage) as history:
        await say(history, "parent before")
        pid = os.fork()
        if pid == 0:
            # The child leaves its parent's loop alone, and starts another one in another thread.
            import threading

            thread = threading.Thread(target=lambda: anyio.run(say, history, "child"))
            thread.start()
            thread.join()
            os._exit(0)
        ended = os.waitpid(pid, 0)[1]  # noqa: ASYNC222 - nothing else runs here
        assert os.waitstatus_to_exitcode(ended) == 0
        await say(history, "parent after")


anyio.run(parent)
