"""Traps of loops, forks and the end of the process."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio

import asynchistory
from asynchistory import (
    LifecycleError,
    Tool,
    open_history,
)
from asynchistory_compat import (
    HistoryManager,
    LLMFactory,
    Stream,
    configure,
    get_history,
    safe_async_call,
)
from tests.compat.trapping import FOLDER, answer, failure, name_of, say

# -- loops


def own_loop() -> None:
    """A call in the bridge's own loop."""
    history = get_history()
    history.record_message("chat", "user", "x")

    async def inside() -> None:
        history.last("chat")

    say(failure(lambda: safe_async_call(inside())))
    say(len(history.last("chat")))


def in_loops() -> None:
    """A call in a running asyncio, trio and uvloop loop."""
    configure(loop_policy="allow")
    variable = contextvars.ContextVar("variable", default="lost")

    async def read() -> str:
        return variable.get()

    async def main() -> None:
        variable.set("kept")
        async with open_history() as manager:
            await manager.record_message("chat", "user", "x")
            history = HistoryManager(manager)
            history.record_message("chat", "user", "y")
            say(len(await manager.last("chat")), len(history.last("chat")))
            say(safe_async_call(read()))
            say(name_of(lambda: history.last("missing")))

    asyncio.run(main())
    trio.run(main)
    anyio.run(main, backend_options={"use_uvloop": True})


def blocked_loop() -> None:
    """A call on a loop's thread for an instance which a task of that very loop is creating."""
    configure(loop_policy="allow", loop_timeout=0.2)
    factory = asynchistory.LLMFactory()
    twin = LLMFactory(factory)

    async def main() -> None:
        begun, go_on = anyio.Event(), anyio.Event()

        async def create() -> object:
            begun.set()
            await go_on.wait()
            return "instance"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(factory.get_or_create, "key", create)
            await begun.wait()
            error = failure(lambda: twin.get_or_create("key", answer))
            say(type(error).__name__, "MainThread" in str(error), "oop" in str(error))
            go_on.set()
        say(twin.get_or_create("key", answer))

    asyncio.run(main())
    factory.clear_llm_cache()
    trio.run(main)


def workers() -> None:
    """Forty workers of a host at once, in calls that need a worker each."""

    def tool() -> str:
        return "done"

    async def host() -> None:
        barrier = threading.Barrier(40, timeout=20)
        values: list[object] = []

        async def needs_a_worker() -> object:
            return await Tool(tool).run({})

        def work() -> None:
            barrier.wait()
            values.append(safe_async_call(needs_a_worker()))

        limiter = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(anyio.to_thread.run_sync, work)
        say(len(values), limiter.total_tokens, limiter.borrowed_tokens)

    anyio.run(host, backend="asyncio")
    anyio.run(host, backend="trio")


def cancelled_host() -> None:
    """A host that is cancelled while a worker of it waits: in a call, and for an item."""

    async def host() -> None:
        begun = anyio.Event()

        async def forever() -> None:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                say("cleaned up")

        class Quiet:
            async def __aenter__(self) -> AsyncIterator[int]:
                return self.items()

            async def __aexit__(self, *exc: object) -> None:
                say("left")

            async def items(self) -> AsyncIterator[int]:
                await anyio.sleep_forever()
                yield 1

        def call() -> None:
            safe_async_call(forever())

        def iterate() -> None:
            with Stream[Any, int](Quiet()) as items:
                anyio.from_thread.run_sync(begun.set)
                next(items)

        class Slow(asynchistory.AsyncHistoryManager):
            async def __aexit__(self, *exc: Any) -> None:
                for _ in range(1000):
                    await anyio.lowlevel.checkpoint()
                await super().__aexit__(*exc)
                say("closed")

        def close() -> None:
            with HistoryManager(Slow(asynchistory.MemoryStorage())) as history:
                history.create_session("chat")
                safe_async_call(forever())

        for work in (call, iterate, close):
            begun = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, work)
                await begun.wait()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            say("cancelled")

    anyio.run(host, backend="asyncio")
    anyio.run(host, backend="trio")


# -- forks


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked child that does this, of a signal if it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def use_own(number: int = 0) -> None:
    """What a child can do: use the bridge, and a store that it opens itself."""
    assert safe_async_call(answer()) == 42
    with HistoryManager(FOLDER / f"{os.getpid()}.{number}.db") as own:
        assert own.record_message("chat", "user", "x").seq == 1


def fork() -> None:
    """os.fork and multiprocessing, with the bridge at work in the parent."""
    file, memory = HistoryManager(FOLDER / "x.db"), HistoryManager("memory://")
    for history in (file, memory):
        history.record_message("chat", "user", "x")
    events = Stream[Any, Any](file.watch("chat", after_seq=0).target)
    events.__enter__()

    def child() -> None:
        use_own()
        assert isinstance(failure(lambda: file.last("chat", level="fresh")), LifecycleError)
        assert memory.record_message("chat", "user", "child").seq == 2
        assert name_of(lambda: next(events)) == "NotOpenError"
        events.__del__()

    say("child", in_child(child))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=use_own)
    process.start()
    process.join(20)
    say("multiprocessing", process.exitcode)
    with context.Pool(2) as pool:
        say("pool", pool.map(use_own, range(4), chunksize=1))
    say("parent", file.record_message("chat", "user", "y").seq, next(events).seq)
    say("memory", memory.record_message("chat", "user", "y").seq)


def fork_at_work() -> None:
    """Forks while four threads use the bridge."""
    history, stop = HistoryManager(FOLDER / "x.db"), threading.Event()
    history.create_session("chat")

    def hammer() -> int:
        count = 0
        while not stop.is_set():
            history.record_message("chat", "user", "x")
            safe_async_call(answer())
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(hammer) for _ in range(4)]
        codes = {in_child(use_own) for _ in range(15)}
        stop.set()
        counts = [job.result(20) for job in jobs]
    say("children", codes, "parent", all(counts))
    say(history.get_session("chat").seq == sum(counts))


def fork_in_a_worker() -> None:
    """A fork in a worker thread of a host loop, which does not run in the child."""

    async def host() -> None:
        say(await anyio.to_thread.run_sync(in_child, use_own))

    anyio.run(host, backend="asyncio")
    anyio.run(host, backend="trio")


# -- the end of the process


def exit_without_close() -> None:
    """Managers and a stream that nobody closes."""
    say(get_history().record_message("chat", "user", "x").seq, get_history() is get_history())
    HistoryManager("memory://").record_message("chat", "user", "x")
    history = HistoryManager(FOLDER / "x.db")
    history.create_session("chat", exist_ok=True)
    history.watch("chat").__enter__()
    iter(history.watch("chat", after_seq=0))


def exit_order() -> None:
    """What is open is closed at exit, the last one first, though one of them fails."""

    class Noisy(asynchistory.AsyncHistoryManager):
        async def __aexit__(self, *exc: Any) -> None:
            await super().__aexit__(*exc)
            say("closed", self.level)
            if self.level == "cached":
                raise OSError("cannot close")

    for level in ("validated", "cached", "fresh"):
        manager = Noisy(asynchistory.MemoryStorage(), level=level)  # type: ignore[arg-type]
        HistoryManager(manager).create_session("chat")


def exit_blocked() -> None:
    """An exit while a coroutine blocks the bridge's loop for good."""
    import asynchistory_compat.loop

    asynchistory_compat.loop.PATIENCE = 0.2  # type: ignore[misc]
    begun, never = threading.Event(), threading.Lock()
    never.acquire()

    async def block() -> None:
        begun.set()
        never.acquire()

    threading.Thread(target=lambda: safe_async_call(block()), daemon=True).start()
    begun.wait()


def atexit_calls() -> None:
    """Calls from atexit, with the bridge open and after it is closed, and from a finalizer."""
    # What is registered last is called first; the bridge was, with its first call.
    atexit.register(lambda: say("too late", name_of(lambda: history.last("chat"))))
    history = HistoryManager(FOLDER / "x.db")
    history.record_message("chat", "user", "x")
    atexit.register(lambda: say("in time", history.record_message("chat", "user", "y").seq))


def late_calls() -> None:
    """A first call after the bridge is closed: from atexit, and from a finalizer."""
    for module in [name for name in sys.modules if name.startswith("asynchistory_compat")]:
        del sys.modules[module]

    class Finalizer:
        def __del__(self, say: Any = print, name_of: Any = name_of) -> None:
            say("finalizer:", name_of(lambda: history.last("chat")))

    atexit.register(lambda: say("atexit:", name_of(lambda: history.last("chat"))))
    import asynchistory_compat as anew

    anew.configure(backend=sys.argv[2])  # type: ignore[arg-type]
    history: Any = anew.HistoryManager(FOLDER / "x.db")
    globals()["kept"] = Finalizer()


def in_a_finalizer() -> None:
    """Calls from __del__, which the garbage collector runs anywhere, the bridge's loop included."""
    history = HistoryManager("memory://")
    history.create_session("chat")

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            say(name_of(lambda: history.record_message("chat", "user", "x")))

    async def collect() -> None:
        Cycle()
        gc.collect()

    gc.disable()
    Cycle()
    gc.collect()
    safe_async_call(collect())
    say(history.count().records)
