"""The one event loop behind all synchronous calls, and the way to it.

A daemon thread runs ``anyio.run`` with a blocking portal in it. It starts at
the first call and ends with the process. Nothing here makes a loop per call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import CodeType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import anyio
from anyio import from_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import EventLoopToken, current_token

from asynchistory import BridgeClosedError, LoopThreadError

T = TypeVar("T")

#: What a synchronous call does in a thread whose own event loop is running.
LoopPolicy: TypeAlias = Literal["allow", "warn", "error"]
#: Seconds that it may block that loop.
LOOP_TIMEOUT = 30.0
#: Seconds that the exit of the interpreter waits for what is being closed.
EXIT_TIMEOUT = 5.0


class BlockingInLoopWarning(RuntimeWarning):
    """A synchronous call blocks a running event loop; ``await`` the async object there."""


class _Call(Generic[T]):
    """One coroutine run for a caller in another thread."""

    def __init__(self, work: Callable[[], Awaitable[T]], timeout: float | None) -> None:
        self.work = work
        self.timeout = timeout
        self.done = threading.Event()
        self.scope: anyio.CancelScope | None = None
        self.outcome: list[T] = []
        self.error: BaseException | None = None

    async def run(self) -> None:
        try:
            with anyio.move_on_after(self.timeout) as self.scope:
                self.outcome.append(await self.work())
        except (KeyboardInterrupt, SystemExit) as error:
            self.error = error  # its caller's alone: it must not end the loop of everybody
        finally:
            self.done.set()

    def cancel(self) -> None:
        if self.scope is not None:
            self.scope.cancel()

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        if not self.outcome:
            raise TimeoutError(f"the call was cancelled after its timeout of {self.timeout:g} s")
        return self.outcome[0]


class _Home:
    """The bridge's running loop."""

    def __init__(self, backend: str) -> None:
        self.token: EventLoopToken | None = None
        self.portal: BlockingPortal | None = None
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self.thread = threading.Thread(
            target=self._run, args=(backend,), name="asynchistory-bridge", daemon=True
        )
        self.thread.start()
        self._ready.wait()
        if self.error is not None:
            raise self.error

    def _run(self, backend: str) -> None:
        try:
            anyio.run(self._main, backend=backend)
        except BaseException as error:
            self.error = error
            self._ready.set()

    async def _main(self) -> None:
        async with BlockingPortal() as self.portal:
            self.token = current_token()
            self._ready.set()
            await self.portal.sleep_until_stopped()


class Bridge:
    """Runs coroutines for synchronous callers on one loop of its own.

    Args:
        backend: ``asyncio`` or ``trio``.
        loop_policy: what a call does in a thread whose own loop is running:
            ``allow`` it, ``warn`` once per call site, or raise an ``error``.
    """

    def __init__(self, backend: str = "asyncio", loop_policy: LoopPolicy = "warn") -> None:
        self.backend: str = backend
        self.loop_policy: LoopPolicy = loop_policy
        #: Grows when what was opened here is gone: after a fork, in the child.
        self.generation: int = 0
        self._lock = threading.Lock()
        self._home: _Home | None = None
        self._open: list[AbstractAsyncContextManager[Any]] = []
        self._exiting = False
        self._warned: set[tuple[CodeType, int]] = set()

    def call(self, work: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """The result of ``await work()``, run on the bridge's loop.

        In a worker thread of AnyIO (a FastAPI ``def`` endpoint) it runs on that
        worker's host loop, so that the host's cancellation arrives.

        Args:
            work: makes the awaitable, on the loop.
            timeout: seconds until it is cancelled; None for no limit.

        Raises:
            LoopThreadError: called in the bridge's own thread, or after
                blocking another running loop for 30 seconds.
            BridgeClosedError: the interpreter is exiting.
            TimeoutError: the timeout passed and the coroutine was cancelled.
        """
        loop = _running_loop()
        if loop is None:
            call = _Call(work, timeout)
            if _in_worker_thread():
                from_thread.run(call.run)
            else:
                self._run(call)
            return call.result()
        return self._call_in_loop(loop, work, timeout)

    def _call_in_loop(
        self, loop: object, work: Callable[[], Awaitable[T]], timeout: float | None
    ) -> T:
        home = self._home
        if home is not None and threading.current_thread() is home.thread:
            raise LoopThreadError(
                "a synchronous call in the bridge's own event loop would wait for itself; "
                "await the async object there"
            )
        if self.loop_policy == "error":
            raise LoopThreadError(f"a synchronous call would block {loop!r}; await it there")
        if self.loop_policy == "warn":
            self._warn(loop)
        call = _Call(work, LOOP_TIMEOUT if timeout is None else min(timeout, LOOP_TIMEOUT))
        self._run_beside(call)
        if not call.outcome and call.error is None and call.timeout == LOOP_TIMEOUT:
            raise LoopThreadError(
                f"the call blocked {loop!r} for {LOOP_TIMEOUT:g} s without an outcome, perhaps "
                "because it waits for that very loop; await it there"
            )
        return call.result()

    def _run(self, call: _Call[Any]) -> None:
        token = self._started().token
        try:
            from_thread.run(call.run, token=token)
        except KeyboardInterrupt:
            # Ours, not the coroutine's, which cannot raise one out of run().
            from_thread.run_sync(call.cancel, token=token)
            call.done.wait()
            if not call.outcome:
                raise

    def _run_beside(self, call: _Call[Any]) -> None:
        # From a thread of its own: trio refuses to be called from a thread where it runs.
        context = contextvars.copy_context()

        def run() -> None:
            try:
                context.run(self._run, call)
            except Exception as error:
                call.error = error

        thread = threading.Thread(target=run, name="asynchistory-call", daemon=True)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            from_thread.run_sync(call.cancel, token=self._started().token)
            thread.join()
            if not call.outcome:
                raise

    def open(self, resource: AbstractAsyncContextManager[Any]) -> int:
        """Enter a resource for the rest of the process, or until :meth:`close`.

        Returns:
            The generation that it belongs to.
        """

        async def enter() -> None:
            await resource.__aenter__()
            self._open.append(resource)

        self.call(enter)
        return self.generation

    @contextmanager
    def entered(self, resource: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter and leave a resource in one task of the loop, as its cancel scopes need it."""
        portal = self._started().portal
        assert portal is not None
        closed: GeneratorExit | None = None
        with portal.wrap_async_context_manager(resource) as value:
            try:
                yield value
            except GeneratorExit as error:
                closed = error  # an iterator was closed; to the resource that is no error
        if closed is not None:
            raise closed

    def close(self, resource: AbstractAsyncContextManager[Any]) -> None:
        """Leave a resource that :meth:`open` entered."""

        async def leave() -> None:
            if resource in self._open:
                self._open.remove(resource)
                await resource.__aexit__(None, None, None)

        self.call(leave)

    # -- the loop's life

    def _started(self) -> _Home:
        home = self._home
        if home is not None:
            return home
        with self._lock:
            if self._exiting:
                raise BridgeClosedError("the interpreter is exiting; no event loop can start")
            if self._home is None:
                self._home = _Home(self.backend)
            return self._home

    def _shut(self) -> None:
        with self._lock:
            self._exiting = True
            home, self._home = self._home, None
        if home is None or home.portal is None or not home.thread.is_alive():
            return
        home.portal.start_task_soon(self._close_all, home.portal)
        home.thread.join(EXIT_TIMEOUT)

    async def _close_all(self, portal: BlockingPortal) -> None:
        try:
            while self._open:
                await self._open.pop().__aexit__(None, None, None)
        finally:
            await portal.stop()

    def _forget(self) -> None:
        # In a forked child. The loop is its parent's: closing it would make the parent's deaf.
        self._lock = threading.Lock()
        self._home = None
        self._open = []
        self.generation += 1

    def _warn(self, loop: object) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        site = (frame.f_code, frame.f_lineno)
        if site not in self._warned:
            self._warned.add(site)
            warnings.warn_explicit(
                f"a synchronous call blocks {loop!r}; await the async object there",
                BlockingInLoopWarning,
                frame.f_code.co_filename,
                frame.f_lineno,
            )


def _running_loop() -> object | None:
    """The event loop that runs in this thread and that a wait here would block."""
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)  # None while another thread is importing trio
    if lowlevel is not None and lowlevel.in_trio_run():
        root: object = lowlevel.current_root_task()
        return root
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _in_worker_thread() -> bool:
    try:
        from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True


_bridge = Bridge()


def bridge() -> Bridge:
    """The bridge of this process."""
    return _bridge


def configure(*, backend: str | None = None, loop_policy: LoopPolicy | None = None) -> None:
    """Set up the process-wide bridge; the backend before its first use.

    Args:
        backend: ``asyncio`` (the default) or ``trio``.
        loop_policy: what a synchronous call does in a thread whose own loop is
            running: ``allow``, ``warn`` (the default; once per call site) or ``error``.
    """
    if backend is not None and backend != _bridge.backend:
        if _bridge._home is not None:
            raise LoopThreadError("the bridge runs already; configure it before its first use")
        _bridge.backend = backend
    if loop_policy is not None:
        _bridge.loop_policy = loop_policy


atexit.register(_bridge._shut)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_bridge._forget)
