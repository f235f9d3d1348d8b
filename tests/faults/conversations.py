"""Many conversations at once with a model on this machine: what they say, and what they leave.

A quarter of them each is left at its first piece of text, is cancelled, calls a tool, and goes
smoothly. All go on afterwards.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from asynchistory import (
    AsyncHistoryManager,
    Conversation,
    LLMFactory,
    SQLiteStorage,
    TextDelta,
)
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.leftovers import living_tasks, look_for_tasks, open_sockets
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report

PATIENCE = 600.0
WAYS = ("left", "cancelled", "with a tool", "smooth")


def answer(request: dict[str, Any]) -> Reply:
    """What the model says: a call of a tool where it is asked for, else what it was told."""
    last = request["messages"][-1]
    said = next(one for one in reversed(request["messages"]) if one["role"] == "user")["content"]
    if "with a tool" in said and last["role"] != "tool":
        return Reply(tool_calls=[CallTool("double", {"number": 21})])
    return Reply(f"You said: {said}")


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


async def talk(report: Report, history: AsyncHistoryManager, url: str, number: int) -> None:
    """One conversation: a turn of its way, and another."""
    way = WAYS[number % len(WAYS)]
    try:
        async with Conversation(
            history,
            provider="openai",
            model="m",
            factory=_factory,
            base_url=url,
            api_key="k",
            session_id=f"session-{number}",
            tools=[double],
        ) as conversation:
            await _first_turn(conversation, f"{number} is {way}", way)
            said = (await conversation.ask(f"{number} goes on")).text
        if said != f"You said: {number} goes on":
            report.note("lost", f"the answer of {number} is another's")
        report.acknowledged += 1
    except Exception as error:
        report.note("errors", f"{way}: {type(error).__name__}: {error}")


async def _first_turn(conversation: Conversation, text: str, way: str) -> None:
    with anyio.CancelScope() as scope:
        async with conversation.send(text) as events:
            async for event in events:
                if isinstance(event, TextDelta) and way == "left":
                    break
                if isinstance(event, TextDelta) and way == "cancelled":
                    scope.cancel()


_factory = LLMFactory()


async def crowd(report: Report, path: Path, url: str, number: int) -> None:
    """So many conversations at once, over one file."""
    tasks = living_tasks()
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        async with anyio.create_task_group() as group:
            for one in range(number):
                group.start_soon(talk, report, history, url, one)
        report.stored += (await history.count()).sessions
    await look_for_tasks(report, tasks)


# -- the campaign


def child(folder: str, url: str, backend: str, number: str) -> None:
    """Hold the conversations on one loop, and report."""
    report = Report("conversations", 1)
    before, threads = open_sockets(), set(threading.enumerate())
    say(backend)
    path = Path(folder) / f"{backend}.db"
    anyio.run(partial(crowd, report, path, url, int(number)), backend=backend)
    for one in open_sockets() - before:
        report.note("stranded", one)
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        if thread.is_alive():
            report.note("stranded", f"the thread {thread.name}")
    tell(report)
    say(DONE)


def campaign(times: int) -> Report:
    """Hold ``times`` conversations at once on each loop."""
    report = Report("conversations", times, unit="conversations at once on each loop")
    if sys.platform != "linux":
        raise SystemExit("this campaign looks at /proc, which Linux has")
    start = time.monotonic()
    with memory_folder() as folder:
        for backend in LOOPS:
            with LoopbackLLM(answer) as server:
                who = Child("tests.faults.conversations:child", folder, server.url, backend, times)
                follow(report, who, PATIENCE)
                report.counts[f"{backend}: requests"] = server.count
    report.seconds = time.monotonic() - start
    return report
