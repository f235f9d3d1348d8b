"""One LLM client used from many event loops: answers, requests, and what they leave behind.

First the runs of two kinds of loop in turn, then four loops that are alive at once, then
many more in turn, which may leave nothing. OpenAI's and Anthropic's SDKs with our HTTP
client do the same.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio

from asynchistory import ChatRequest, Completion, LLMFactory, Message
from tests.faults.children import DONE, Child, follow, say, tell
from tests.faults.leftovers import open_files, open_sockets
from tests.faults.report import Report
from tests.llm.many_loops import Ask, ManyLoops
from tests.llm.raw_server import RawServer, anthropic
from tests.llm.sdks import LIBRARIES, asks_anthropic, asks_openai

#: Runs in turn, loops at once, and the calls of each.
IN_TURN, AT_ONCE, CALLS = 6, 4, 200
#: What many loops more may take.
MOST_BYTES = 2 * 1024 * 1024
#: In each of the many loops.
FEW_CALLS = 2
PATIENCE = 600.0


def asks_ourselves(url: str, library: str) -> Ask:
    """Our own client, plain and streamed in turn."""

    async def make() -> Any:
        return await LLMFactory().get("openai", "m", base_url=url, api_key="k")

    client = anyio.run(make)
    asked = 0

    async def ask(text: str) -> str:
        nonlocal asked
        asked += 1
        request = ChatRequest(messages=(Message.of("user", text),))
        if asked % 2:
            return str((await client.complete(request)).message.text)
        async with client.stream(request) as events:
            *_, whole = [event async for event in events]
        assert isinstance(whole, Completion)
        return whole.message.text

    return ask


CLIENTS: dict[str, Callable[[str, str], Ask]] = {
    "asynchistory": asks_ourselves,
    "openai": asks_openai,
    "anthropic": asks_anthropic,
    "openai on its own": lambda url, library: asks_openai(url, ""),
}
#: Those that the campaign is about; the others prove that it can find something.
NAMES = ("asynchistory", "openai", "anthropic")


def memory() -> int:
    """The bytes of memory that this process has."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def child(name: str, url: str, times: str, calls: str) -> None:
    """Use one client, and report."""
    report = Report("loops", 1)
    before = open_sockets()
    loops = ManyLoops(CLIENTS[name](url, LIBRARIES.get(name, "httpx")))
    say("in turn")
    loops.one_after_another(IN_TURN, int(calls))
    say("at once")
    loops.at_once(AT_ONCE, int(calls))
    _leaves_nothing(report, name, len(open_sockets() - before))
    files, taken = open_files(), memory()
    say("many more")
    loops.one_after_another(int(times), FEW_CALLS)
    more = memory() - taken
    report.peaks[f"{name}: bytes more after {times} loops"] = max(more, 0)
    if more > MOST_BYTES:
        report.note("stranded", f"{name}: {more} bytes")
    _leaves_nothing(report, name, open_files() - files)
    report.acknowledged = loops.found["answered"]
    report.counts[f"{name}: calls"] = loops.found["calls"]
    for _ in range(loops.found["wrong"]):
        report.note("lost", f"{name}: the answer to another question")
    for error, count in loops.errors.items():
        report.note("errors", f"{name}: {count} times {error}")
    tell(report)
    say(DONE)


def _leaves_nothing(report: Report, name: str, count: int) -> None:
    report.peaks[f"{name}: descriptors left over"] = max(
        count, report.peaks[f"{name}: descriptors left over"]
    )
    if count > 0:
        report.note("stranded", f"{name}: {count} descriptors")


def use(report: Report, name: str, times: int, calls: int = CALLS) -> None:
    """Let a client be used, and hold what the server got against what was asked."""
    from asynchistory.testing import LoopbackLLM

    server: AbstractContextManager[Any] = (
        RawServer(anthropic) if name == "anthropic" else LoopbackLLM()
    )
    with server as running:
        follow(report, Child("tests.faults.loops:child", name, running.url, times, calls), PATIENCE)
        requests = len(running.requests)
    report.stored += requests
    calls = report.counts[f"{name}: calls"]
    if requests > calls:
        report.note("duplicates", f"{name}: {requests} requests for {calls} calls")
    if requests < calls:
        report.note("lost", f"{name}: {requests} requests for {calls} calls")


def campaign(times: int) -> Report:
    """Use each client from many loops, and then from ``times`` more."""
    loops = f"{IN_TURN} in turn and {AT_ONCE} at once of {CALLS} calls each"
    report = Report("loops", times, unit=f"loops in turn, after {loops}")
    if sys.platform != "linux":
        raise SystemExit("this campaign looks at /proc, which Linux has")
    start = time.monotonic()
    for name in NAMES:
        use(report, name, times)
    report.seconds = time.monotonic() - start
    return report
