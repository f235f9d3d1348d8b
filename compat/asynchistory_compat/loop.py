"""The one event loop behind all synchronous calls, in a daemon thread, and the way to it."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import anyio.to_thread
from anyio import from_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from asynchistory import BridgeClosedError, ConfigurationError, LoopThreadError

T = TypeVar("T")
#: What the bridge's loop runs on.
Backend: TypeAlias = Literal["asyncio", "trio", "uvloop"]
#: What a synchronous call does in a thread whose own event loop is running.
LoopPolicy: TypeAlias = Literal["allow", "warn", "error"]
#: Where a worker thread of AnyIO has its call run: on its host's loop or the bridge's, "home". What
#: is "leaving" runs at home too, and a host's cancellation waits for it.
Where: TypeAlias = Literal["host", "home", "leaving"]
#: Seconds that the exit waits for what is being closed, and a blocked loop for a clean-up.
PATIENCE: Final = 5.0


class BlockingInLoopWarning(RuntimeWarning):
    """A synchronous call blocks a running event loop; ``await`` the async object there."""


class _TaskScope(nullcontext[None]):
    """Cancels its task on asyncio; AnyIO's scope takes a sixth of the time of a whole call."""

    def __enter__(self) -> None:
        self.cancel = asyncio.current_task().cancel  # type: ignore[union-attr]


class _Call:
    """One coroutine, run on a loop for a caller in another thread."""

    def __init__(self, work: Callable[[], Awaitable[Any]], timeout: float | None) -> None:
        self.work, self.timeout = work, timeout
        self.scope: Any = None
        self.over = self.completed = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def run(self, new_scope: Callable[[], Any] = anyio.CancelScope) -> None:
        if self.over:
            return
        timeout = self.timeout
        self.scope = new_scope() if timeout is None else anyio.move_on_after(timeout)
        try:
            with self.scope:
                self.value = await self.work()
                self.completed = True
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            self.error = error  # its caller's alone: SystemExit must not end everybody's loop
        finally:
            self.over = True

    async def run_for_worker(self, where: Where) -> None:
        # A worker that waits lends its place, or forty of them would wait for ever for calls that
        # need a worker themselves.
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens += 1
        here = where == "host" or threading.current_thread() is bridge.thread
        try:
            with anyio.CancelScope(shield=where == "leaving"):
                await (self.run() if here else bridge.portal.call_async(self.run))
        finally:
            limiter.total_tokens -= 1

    def cancel(self) -> None:
        if self.scope is None:
            self.over = True  # it has not begun, and now never will
        else:
            self.scope.cancel()

    def result(self) -> Any:
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback holds this frame
        if not self.completed:
            raise TimeoutError(f"the call was cancelled after its timeout of {self.timeout:g} s")
        return self.value


class Bridge:
    """Runs coroutines for synchronous callers."""

    backend: Backend = "asyncio"
    loop_policy: LoopPolicy = "warn"
    loop_timeout: float = 30.0
    exiting: bool = False
    portal: from_thread.BlockingPortal
    tasks: TaskGroup  #: for tasks that outlive a call
    new_scope: Callable[[], Any]
    stopping: anyio.Event
    soon: Callable[[Callable[[], object]], object]  #: runs a function on the loop, without waiting

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the loop is the parent's, and to close it would make that deaf."""
        self.lock: threading.Lock = threading.Lock()
        self.main: int | None = threading.main_thread().ident
        self.thread: threading.Thread | None = None
        self.token: EventLoopToken | None = None
        #: What is closed at exit, the last one first.
        self.opened: dict[object, AbstractAsyncContextManager[Any]] = {}

    def start(self) -> EventLoopToken:
        """Start the loop unless it is running."""
        with self.lock:
            if self.token is None:
                if self.exiting:
                    raise BridgeClosedError("the interpreter is exiting; no event loop can start")
                atexit.register(self.shut)  # once more, now ahead of what was registered meanwhile
                ready = threading.Event()
                self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
                try:
                    self.thread.start()
                except RuntimeError as error:  # Python 3.12 and newer start no threads at exit
                    raise BridgeClosedError("the interpreter is exiting") from error
                ready.wait()
            if self.token is None:
                raise ConfigurationError(f"{self.backend} does not start; is it installed?")
            return self.token

    def _run(self, ready: threading.Event) -> None:
        library = "trio" if self.backend == "trio" else "asyncio"
        options = {"use_uvloop": True} if self.backend == "uvloop" else {}
        try:
            anyio.run(self._main, library, ready, backend=library, backend_options=options)
        finally:
            self.token = None
            ready.set()

    async def _main(self, library: str, ready: threading.Event) -> None:
        if library == "trio":
            import trio

            self.new_scope = trio.CancelScope
            self.soon = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self.new_scope = _TaskScope
            self.soon = asyncio.get_running_loop().call_soon_threadsafe
        self.stopping = anyio.Event()
        async with from_thread.BlockingPortal() as self.portal, AsyncExitStack() as stack:
            async with anyio.create_task_group() as self.tasks:
                self.token = current_token()
                ready.set()
                await self.stopping.wait()
                self.tasks.cancel_scope.cancel()
            for resource in self.opened.values():
                stack.push_async_exit(resource)

    def shut(self) -> None:
        """At exit: close what is open and stop the loop."""
        with self.lock:
            self.exiting, running, self.token = True, self.token is not None, None
        if running and self.thread is not None:
            self.soon(self.stopping.set)
            self.thread.join(PATIENCE)

    def call(
        self, work: Callable[[], Awaitable[T]], timeout: float | None = None, where: Where = "host"
    ) -> T:
        """The result of ``await work()``, on the bridge's loop unless a host's is the right one."""
        call = _Call(work, timeout)
        try:
            if (loop := _running_loop()) is not None:
                self._block(loop, call)
            # The main thread is no worker; in a forked child not even if it was one in the parent.
            elif threading.get_ident() != self.main and _in_worker_thread(where):
                if where != "host":
                    self.start()
                from_thread.run(call.run_for_worker, where)
            else:
                token = self.token or self.start()
                from_thread.run(call.run, self.new_scope, token=token)
        except KeyboardInterrupt:
            if self.token is not None:
                self.soon(call.cancel)
                while not call.over:
                    time.sleep(0.001)
            if not call.completed:
                raise
        result: T = call.result()
        return result

    def _block(self, loop: object, call: _Call) -> None:
        """Make a call in the thread of a running loop."""
        thread = threading.current_thread()
        if thread is self.thread:
            raise LoopThreadError("a call in the bridge's own loop would wait for itself; await it")
        if self.loop_policy == "error":
            raise LoopThreadError(f"a call would block {loop!r} of {thread.name}; await it there")
        if self.loop_policy == "warn":
            text = "a synchronous call blocks this thread's event loop; await the async object"
            warnings.warn(text, BlockingInLoopWarning, stacklevel=4)
        wanted, limit = call.timeout, self.loop_timeout
        call.timeout = limit = limit if wanted is None else min(limit, wanted)
        # From a thread of its own: trio refuses to be called from a thread where it runs.
        run = partial(from_thread.run, call.run, token=self.token or self.start())
        context = contextvars.copy_context()
        beside = threading.Thread(target=context.run, args=(run,), daemon=True)
        beside.start()
        beside.join(limit + PATIENCE)
        if limit != wanted and not call.completed and call.error is None:
            raise LoopThreadError(
                f"the call blocked {loop!r} of {thread.name} for {limit:g} s, perhaps because it "
                "waits for that very loop; await it there"
            )


def _running_loop() -> object:
    """The event loop that runs in this thread, and that a wait would block; None if none does."""
    # It may be half imported, by another thread.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    if lowlevel is not None and lowlevel.in_trio_run():
        return lowlevel.current_root_task()
    return asyncio._get_running_loop()


def _in_worker_thread(where: Where) -> bool:
    try:
        from_thread.check_cancelled()
    except RuntimeError:
        return False
    except BaseException:  # the host is cancelled
        if where != "leaving":
            raise
    return True


bridge: Final = Bridge()
atexit.register(bridge.shut)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=bridge.forget)


def configure(
    *,
    backend: Backend | None = None,
    loop_policy: LoopPolicy | None = None,
    loop_timeout: float | None = None,
) -> None:
    """Choose the bridge's backend, before its first use, and what calls in a loop's thread do.

    ``loop_timeout`` is for how many seconds one may block that loop.
    """
    if backend not in (None, bridge.backend) and bridge.token is not None:
        raise ConfigurationError("the bridge runs already; configure it before its first use")
    bridge.backend = backend or bridge.backend
    bridge.loop_policy = loop_policy or bridge.loop_policy
    bridge.loop_timeout = loop_timeout or bridge.loop_timeout
