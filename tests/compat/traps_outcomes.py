"""Traps of outcomes: exits, Ctrl-C, timeouts, and iterators that are left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio

import asynchistory
from asynchistory import (
    ClientCreationError,
)
from asynchistory_compat import (
    Conversation,
    HistoryManager,
    LLMFactory,
    Stream,
    configure,
    safe_async_call,
)
from tests.compat.trapping import answer, failure, name_of, say

# -- outcomes


def exits() -> None:
    """SystemExit and KeyboardInterrupt in a coroutine reach its caller alone."""

    async def leave(error: BaseException) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    waiting, begun = ThreadPoolExecutor(1), threading.Event()

    async def wait() -> int:
        begun.set()
        await go_on()
        return 7

    gate = threading.Event()

    async def go_on() -> None:
        while not gate.is_set():
            await anyio.lowlevel.checkpoint()

    other = waiting.submit(lambda: safe_async_call(wait()))
    begun.wait()
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        say(name_of(lambda error=error: safe_async_call(leave(error))))  # type: ignore[misc]
    gate.set()
    say(other.result(20), safe_async_call(answer()))


def interrupted(inside: Callable[[Callable[[], None]], object]) -> None:
    """A Ctrl-C in the middle of a call."""

    async def press() -> None:
        # Again if need be: a main thread that is just about to wait notices none before its end.
        while True:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep(2)

    async def work() -> None:
        try:
            await press()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            say("cleaned up")

    async def complete() -> int:
        try:
            await press()
        except anyio.get_cancelled_exc_class():
            pass
        return 5

    def calls() -> None:
        say(name_of(lambda: safe_async_call(work())))
        say(safe_async_call(complete()))
        say(safe_async_call(answer()))

    inside(calls)


def ctrl_c() -> None:
    interrupted(lambda calls: calls())


def ctrl_c_with_timeout() -> None:
    """The same, in calls that have a timeout."""
    call = safe_async_call
    globals()["safe_async_call"] = lambda awaitable: call(awaitable, 20)
    interrupted(lambda calls: calls())


def ctrl_c_in_a_loop() -> None:
    configure(loop_policy="allow")

    async def main(calls: Callable[[], None]) -> None:
        calls()

    if sys.argv[2] == "trio":
        interrupted(lambda calls: trio.run(main, calls))
    else:
        # As in a notebook. asyncio.run catches the first Ctrl-C, to cancel its own main task.
        loop = asyncio.new_event_loop()
        interrupted(lambda calls: loop.run_until_complete(main(calls)))
        loop.close()


def ctrl_c_anywhere() -> None:
    """Ctrl-C at any moment, also before the call has begun: no call hangs, each has one outcome."""
    outcomes = []
    done = threading.Event()

    def press() -> None:
        while not done.wait(0.0007):
            os.kill(os.getpid(), signal.SIGINT)

    safe_async_call(answer())
    presser = threading.Thread(target=press)
    presser.start()
    try:
        for _ in range(300):
            try:
                outcomes.append(safe_async_call(answer()))
            except KeyboardInterrupt:
                outcomes.append(0)
    except KeyboardInterrupt:
        pass
    while True:
        try:
            done.set()
            presser.join()
            break
        except KeyboardInterrupt:
            continue
    say(set(outcomes) <= {0, 42}, safe_async_call(answer()))


def timeouts() -> None:
    """A timeout: the clean-up has run when it is raised; what had completed is returned."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            say("cleaned up")

    async def late() -> int:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
        return 5

    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("in the clean-up")

    say(failure(lambda: safe_async_call(work(), 0.01)))
    say(safe_async_call(late(), 0.01))
    say(failure(lambda: safe_async_call(fails(), 0.01)))


# -- streams


class Turn:
    """A stream of numbers without end, which says when it is left."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.handed_out = 0
        self.left = threading.Event()

    async def __aenter__(self) -> AsyncIterator[int]:
        self.scope = anyio.CancelScope()  # the host task's: no other one can leave it
        self.scope.__enter__()
        self.numbers = self.items()
        return self.numbers

    async def __aexit__(self, *exc: Any) -> None:
        await self.numbers.aclose()
        self.scope.__exit__(*exc)
        self.left.set()

    async def items(self) -> AsyncGenerator[int, None]:
        for number in range(self.most):
            self.handed_out = number + 1
            yield number


def streams() -> None:
    """Iterators that are left early, abandoned, and abandoned in the loop's own thread."""
    left = Turn()
    with Stream[Any, int](left) as items:
        say([next(items) for _ in range(3)])
    say("left", left.left.is_set(), left.handed_out <= 2 * 64 + 1)

    broken = Turn()
    for number in Stream[Any, int](broken):
        if number == 100:
            break
    say("broken off", broken.left.wait(20))

    forgotten = Turn()
    iter(Stream[Any, int](forgotten))
    gc.collect()
    say("forgotten", forgotten.left.wait(20))

    caught = Turn()
    held = [iter(Stream[Any, int](caught))]

    async def forget() -> None:
        held.clear()
        gc.collect()

    safe_async_call(forget())
    say("on the loop", caught.left.wait(20))

    whole = Turn(1000)
    say("whole", sum(Stream[Any, int](whole)), whole.left.is_set())


def abandoned_turn() -> None:
    """A conversation's turn whose iterator is abandoned; the next turn goes on."""
    history = HistoryManager("memory://")
    with Conversation(history, provider="scripted", model="echo") as conversation:
        for _ in conversation.send("one two three " * 100):
            break
        say(conversation.ask("Hello!").text != "")
        say(history.pending_tool_calls(conversation.session_id))


def creation_fails() -> None:
    """Errors of a creation reach all threads."""
    twin = LLMFactory(asynchistory.LLMFactory())

    async def create() -> object:
        raise OSError("no")

    with ThreadPoolExecutor(8) as pool:
        errors = pool.map(lambda _: failure(lambda: twin.get_or_create("key", create)), range(8))
        say({type(error) for error in errors} == {ClientCreationError})
