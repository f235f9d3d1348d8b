"""One event-loop run: its identity, and waits that end with a known outcome.

asyncio and trio are told apart here and nowhere else. trio is imported only
where it is already running.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from asynchistory.errors import NoEventLoopError

if TYPE_CHECKING:
    import trio

    #: A lock that belongs to one run.
    Lock: TypeAlias = asyncio.Lock | trio.Lock


def current_run() -> object:
    """The running event loop (asyncio) or the trio token of this run.

    The object itself is the identity. Its ``id()`` is not: ids are given
    again, and a run that starts after another ended may get the same one.

    Raises:
        NoEventLoopError: neither asyncio nor trio is running in this thread.
    """
    if _in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise NoEventLoopError(
            "no event loop runs in this thread; from synchronous code use asynchistory_compat"
        ) from None


def _in_trio() -> bool:
    # First trio, then asyncio: in trio's guest mode the host's asyncio loop is running too.
    trio = sys.modules.get("trio")
    try:
        return trio is not None and bool(trio.lowlevel.in_trio_task())
    except AttributeError:  # another thread is importing trio just now: nothing runs on it yet
        return False


async def checkpoint_if_cancelled() -> None:
    """Raise a pending cancellation on trio, where every await is a checkpoint; else go on."""
    if _in_trio():
        await sys.modules["trio"].lowlevel.checkpoint_if_cancelled()


def new_lock() -> Lock:
    """A lock of the running loop's own kind: ``asyncio.Lock``, or ``trio.Lock``."""
    if _in_trio():
        import trio

        return trio.Lock()
    return asyncio.Lock()


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup, None]:
    """A task group whose block raises what it raises, and not a group of one error.

    An error in the block cancels the tasks. The tasks themselves must not raise.
    """
    fault: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            yield group
        except Exception as error:
            fault = error
            group.cancel_scope.cancel()
    if fault is not None:
        raise fault


async def at_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """An async generator that runs ``close`` when the event loop that started it ends.

    Start it with ``anext`` and keep it: asyncio.run, anyio.run and trio.run all
    close the generators that are left when they end. Closing it earlier runs
    ``close`` earlier.
    """
    try:
        yield
    finally:
        await close()


class _Patience:
    """Gives way to the threads that this run's waits depend on, if the run starves them.

    A loop that burns the processor in slices of about a millisecond lets go of
    the interpreter between them, but takes it back before a thread that waits
    for it has woken up: one write was seen to take 10 seconds. So where a wait
    goes on and the loop is late, the loop itself waits a moment for the thread.
    """

    #: Seconds after which a wait is looked at, and at most given away each time.
    PATIENCE: float = 0.005
    #: Seconds by which a loop is late that is busy.
    LATE: float = 0.0005

    def __init__(self) -> None:
        self.pending: int = 0
        self._armed = False
        self._gate: threading.Lock | None = None
        self._posts = self._seen = 0

    def begin(self, waiter: Waiter) -> None:
        """One more wait."""
        self.pending += 1
        if not self._armed:
            self._armed = True
            waiter.watch(self)

    def posted(self) -> None:
        """An outcome is on its way to the run. Called in the thread that brings it."""
        self._posts += 1
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()

    def look(self, due: float) -> bool:
        """Give way if that is called for; False when there is nothing left to wait for.

        ``due`` is when this was to be called, on the monotonic clock.
        """
        if not self.pending:
            self._armed = False
            return False
        if self._posts == self._seen and time.monotonic() - due > self.LATE:
            self._give_way()
        self._seen = self._posts
        return True

    def _give_way(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        self._gate = gate
        if self._posts == self._seen:
            gate.acquire(timeout=self.PATIENCE)
        self._gate = None


class _Here(threading.local):
    """This thread's latest run."""

    run: Callable[[], object] = staticmethod(lambda: None)
    patience: _Patience


_here = _Here()


class Waiter(ABC):
    """One task's wait for an outcome that another thread or task brings.

    Made by :func:`new_waiter` in the task that will wait, waited for once, and
    ended by :func:`wake`. An operation completes or is cancelled, never both:
    a cancellation ends the wait only if ``withdraw`` can still call the work
    off. If not, the wait goes on to the outcome, and the cancellation is
    delivered at the task's next await.
    """

    __slots__ = ("done", "patience", "run")

    def __init__(self, run: Any) -> None:
        self.run: Any = run
        self.done: bool = False
        if _here.run() is not run:
            _here.run, _here.patience = weakref.ref(run), _Patience()
        self.patience: _Patience = _here.patience

    @abstractmethod
    async def wait(self, withdraw: Callable[[], bool]) -> None:
        """Return when woken; raise the cancellation if ``withdraw()`` called the work off."""

    @abstractmethod
    def post(self, waiters: list[Waiter]) -> None:
        """Have ``waiters``, all of this one's run, woken in their own thread."""

    @abstractmethod
    def watch(self, patience: _Patience) -> None:
        """Have ``patience`` look from time to time until there is nothing to wait for."""


class _AsyncioWaiter(Waiter):
    __slots__ = ("_future",)
    run: asyncio.AbstractEventLoop
    _future: asyncio.Future[None] | None

    def __init__(self, run: asyncio.AbstractEventLoop) -> None:
        Waiter.__init__(self, run)
        self._future = None

    async def wait(self, withdraw: Callable[[], bool]) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine on asyncio always runs in a task"
        # What was absorbed before and is still to be redelivered is no business of this call's.
        cancelling = _absorbed.get(task, task.cancelling())
        absorbed: asyncio.CancelledError | None = None
        self.patience.begin(self)
        try:
            while not self.done:
                self._future = asyncio.Future(loop=self.run)
                try:
                    await self._future
                except asyncio.CancelledError as error:
                    if not self.done and withdraw():
                        raise
                    absorbed = error
                except BaseException:
                    withdraw()
                    raise
        finally:
            self.patience.pending -= 1
        if absorbed is not None:
            # Later, not now: delivered at once, it would outlive a timeout block that ends
            # right after this call.
            _absorbed[task] = cancelling
            self.run.call_soon(_redeliver, task, absorbed.args)

    def post(self, waiters: list[Waiter]) -> None:
        self.run.call_soon_threadsafe(_wake_asyncio, waiters)

    def watch(self, patience: _Patience) -> None:
        _look_later(self.run, patience)


def _look_later(loop: asyncio.AbstractEventLoop, patience: _Patience) -> None:
    def look() -> None:
        if patience.look(due):
            _look_later(loop, patience)

    due = time.monotonic() + patience.PATIENCE
    loop.call_later(patience.PATIENCE, look)


#: Tasks whose cancellation was absorbed, with the requests that they had before it.
_absorbed: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()


def _redeliver(task: asyncio.Task[Any], args: tuple[Any, ...]) -> None:
    cancelling = _absorbed.pop(task, None)
    # The scope that cancelled may have ended meanwhile; it has then taken its request back.
    if cancelling is not None and not task.done() and task.cancelling() > cancelling:
        task.uncancel()
        task.cancel(*args)


def _wake_asyncio(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.done = True
        future = waiter._future  # type: ignore[attr-defined]
        if future is not None and not future.done():
            future.set_result(None)


class _TrioWaiter(Waiter):
    __slots__ = ("_task",)
    run: trio.lowlevel.TrioToken
    _task: trio.lowlevel.Task | None

    def __init__(self, run: trio.lowlevel.TrioToken) -> None:
        super().__init__(run)
        self._task = None

    async def wait(self, withdraw: Callable[[], bool]) -> None:
        from trio import lowlevel

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if not withdraw():
                return lowlevel.Abort.FAILED
            self._task = None
            return lowlevel.Abort.SUCCEEDED

        if self.done:
            return
        self._task = lowlevel.current_task()
        self.patience.begin(self)
        try:
            await lowlevel.wait_task_rescheduled(abort)
        finally:
            self.patience.pending -= 1

    def post(self, waiters: list[Waiter]) -> None:
        self.run.run_sync_soon(_wake_trio, waiters)

    def watch(self, patience: _Patience) -> None:
        # At the very end of a run there are no more system tasks; nor is it busy then.
        with suppress(RuntimeError):
            sys.modules["trio"].lowlevel.spawn_system_task(_look_on_trio, patience)


async def _look_on_trio(patience: _Patience) -> None:
    import trio

    looking = True
    while looking:
        due = time.monotonic() + patience.PATIENCE
        await trio.sleep(patience.PATIENCE)
        looking = patience.look(due)


def _wake_trio(waiters: list[Waiter]) -> None:
    reschedule = sys.modules["trio"].lowlevel.reschedule
    for waiter in waiters:
        waiter.done = True
        if waiter._task is not None:  # type: ignore[attr-defined]
            reschedule(waiter._task)  # type: ignore[attr-defined]


def new_waiter() -> Waiter:
    """A waiter for the current task.

    Raises:
        NoEventLoopError: neither asyncio nor trio is running in this thread.
    """
    run: Any = current_run()
    return _AsyncioWaiter(run) if isinstance(run, asyncio.AbstractEventLoop) else _TrioWaiter(run)


def wake(waiters: Iterable[Waiter]) -> None:
    """Wake these, from any thread, with one call into each event loop."""
    by_run: dict[object, list[Waiter]] = {}
    for waiter in waiters:
        by_run.setdefault(waiter.run, []).append(waiter)
    for group in by_run.values():
        try:
            group[0].post(group)
            group[0].patience.posted()
        except RuntimeError:
            # That run is over (asyncio: "Event loop is closed", trio: RunFinishedError):
            # nobody waits there any more.
            continue


def call_in(run: Any, work: Callable[[], object]) -> None:
    """Have ``work`` called soon in the thread of a run, from any thread; not if the run is over."""
    on_asyncio = isinstance(run, asyncio.AbstractEventLoop)
    try:
        (run.call_soon_threadsafe if on_asyncio else run.run_sync_soon)(work)
    except RuntimeError:  # see wake()
        return
