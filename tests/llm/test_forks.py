"""A fork while connections are open and instances are being made: each process has its own."""

from __future__ import annotations

import os
import signal
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.to_thread
import pytest

from asynchistory import ChatRequest, LLMClient, LLMFactory, Message
from asynchistory.llm import http
from asynchistory.testing import LoopbackLLM
from tests.faults.children import Child, say
from tests.llm.asking import connect
from tests.llm.certificates import tls as tls
from tests.llm.raw_server import RawServer

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
CHILDREN, QUESTIONS = 3, 30
#: Connections that are open at the fork, each with a question that was answered.
WARM = 5


async def talk(client: LLMClient, name: str, questions: int = QUESTIONS) -> int:
    """How many of the answers are not one's own."""
    wrong = 0
    for number in range(questions):
        question = f"{name} asks {number}"
        answer = await client.complete(ChatRequest(messages=(Message.of("user", question),)))
        wrong += not answer.message.text.endswith(question)
    return wrong


async def talk_in_child(client: LLMClient, name: str) -> int:
    wrong = await talk(client, name)
    # Its own, and none of its parent's.
    return wrong + len(http.run_local_transport("httpx").pools) - 1


def forked(work: Callable[[], Awaitable[int]], backend: str) -> int:
    """The id of a child that does some work in a thread and an event loop of its own."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(30)
    codes = [99]

    def run() -> None:
        codes.append(anyio.run(work, backend=backend))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    os._exit(codes[-1])


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_with_a_warm_pool(url: str, backend: str) -> None:
    async def work() -> None:
        client = await connect(url)
        async with anyio.create_task_group() as tasks:
            for number in range(WARM):
                tasks.start_soon(talk, client, f"parent before {number}", 1)
        pids = [
            forked(partial(talk_in_child, client, f"child {number}"), backend)
            for number in range(CHILDREN)
        ]
        say(f"parent: {await talk(client, 'parent')} wrong")
        for pid in pids:
            say(f"child: {await anyio.to_thread.run_sync(end_of, pid)} wrong")

    anyio.run(work, backend=backend)


def fork_at_a_creation(backend: str) -> None:
    factory = LLMFactory()
    begun = anyio.Event()

    async def make(end: anyio.Event | None) -> str:
        begun.set()
        if end is not None:
            await end.wait()
        return "made"

    async def in_child() -> int:
        return int(await factory.get_or_create("key", partial(make, None)) != "made")

    async def work() -> None:
        end = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(factory.get_or_create, "key", partial(make, end))
            await begun.wait()
            say(f"child: {await anyio.to_thread.run_sync(end_of, forked(in_child, backend))} wrong")
            end.set()
        say(f"parent: {factory.get_cache_stats().creations} made")

    anyio.run(work, backend=backend)


def said(function: str, *arguments: object) -> list[str]:
    child = Child(f"tests.llm.{function}", *arguments)
    assert child.end() == (0, "")
    return child.lines


ALL_RIGHT = ["parent: 0 wrong"] + ["child: 0 wrong"] * CHILDREN
SENT = WARM + QUESTIONS * (CHILDREN + 1)


@BACKENDS
def test_each_process_gets_its_own_answers(backend: str) -> None:
    with LoopbackLLM() as server:
        lines = said("test_forks:fork_with_a_warm_pool", server.url, backend)
        count = server.count

    assert lines == ALL_RIGHT
    assert count == SENT


@BACKENDS
def test_each_process_gets_its_own_answers_over_tls(backend: str, tls: ssl.SSLContext) -> None:
    with RawServer(tls=tls) as server:
        lines = said("test_forks:fork_with_a_warm_pool", server.url, backend)

    assert lines == ALL_RIGHT
    assert len(server.requests) == SENT


@BACKENDS
@pytest.mark.skipif(sys.platform == "darwin", reason="a thread after a fork is not safe there")
def test_a_child_does_not_wait_for_its_parent_s_creation(backend: str) -> None:
    assert said("test_forks:fork_at_a_creation", backend) == ["child: 0 wrong", "parent: 1 made"]
