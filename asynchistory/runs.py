"""One event-loop run: its identity, and waits that end with a known outcome.

asyncio and trio are told apart here and nowhere else. trio is imported only
where it is already running.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

from asynchistory.errors import NoEventLoopError

if TYPE_CHECKING:
    import trio

    #: A lock that belongs to one run.
    Lock: TypeAlias = asyncio.Lock | trio.Lock


Ts = TypeVarTuple("Ts")

_log = logging.getLogger("asynchistory")


def current_run() -> object:
    """The running event loop (asyncio) or the trio token of this run.

    The object itself is the identity. Its ``id()`` is not: ids are given
    again, and a run that starts after another ended may get the same one.

    Raises:
        NoEventLoopError: neither asyncio nor trio is running in this thread.
    """
    run: object = _running()
    if run is None:
        raise NoEventLoopError(
            "no event loop runs in this thread; from synchronous code use asynchistory_compat"
        )
    return run


def _running() -> Any:
    if in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio._get_running_loop()


def in_trio() -> bool:
    """Whether this is a task on trio."""
    # First trio, then asyncio: in trio's guest mode the host's asyncio loop is running too.
    trio = sys.modules.get("trio")
    try:
        return trio is not None and bool(trio.lowlevel.in_trio_task())
    except AttributeError:  # another thread is importing trio just now: nothing runs on it yet
        return False


def has_ended(run: Any) -> bool:
    """Whether this run of asyncio is over and its loop closed. trio does not say."""
    return isinstance(run, asyncio.AbstractEventLoop) and run.is_closed()


async def checkpoint_if_cancelled() -> None:
    """Raise a pending cancellation on trio, where every await is a checkpoint; else go on."""
    if in_trio():
        await sys.modules["trio"].lowlevel.checkpoint_if_cancelled()


def new_lock() -> Lock:
    """A lock of the running loop's own kind: ``asyncio.Lock``, or ``trio.Lock``."""
    if in_trio():
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


#: Tasks of runs, which nothing else keeps.
_tasks: set[asyncio.Task[None]] = set()


def start_task(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task of the run itself, which belongs to no caller. It must not raise."""
    if in_trio():
        sys.modules["trio"].lowlevel.spawn_system_task(work)
        return
    task = asyncio.get_running_loop().create_task(work())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


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


#: asyncio itself refers to a task but weakly.
_lasting: set[asyncio.Task[None]] = set()


def until_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` in a task of its own, which is cancelled when the event loop's run ends.

    What it raises is logged; nobody waits for it.

    Raises:
        NoEventLoopError: neither asyncio nor trio is running in this thread.
    """

    async def guarded() -> None:
        try:
            await work()
        except Exception:
            # On trio it would end the whole run.
            _log.exception("a background task of asynchistory failed")

    run: Any = current_run()
    if isinstance(run, asyncio.AbstractEventLoop):
        # In a context of its own: the caller's is not that of what comes after it.
        task = run.create_task(guarded(), context=Context())
        _lasting.add(task)
        task.add_done_callback(_lasting.discard)
    else:
        with suppress(RuntimeError):  # at the very end of a run there are no more of them
            sys.modules["trio"].lowlevel.spawn_system_task(guarded)


class Waits(ABC):
    """The waits of one run's tasks.

    They give way to the threads that they depend on, if the run starves those.
    A loop that burns the processor in short slices lets go of the interpreter
    between them, but takes it back before a thread that waits for it has woken
    up: one write was seen to take 10 seconds. So where a wait goes on and the
    loop is busy, the loop itself waits a moment for the thread.
    """

    #: Seconds after which a wait is looked at, and at most given away each time.
    PATIENCE: float = 0.005
    #: Seconds by which a loop is late that is busy.
    LATE: float = 0.0005
    #: The share of the time that a loop computes which is busy, however short its slices are.
    BUSY: float = 0.8

    def __init__(self, run: Any) -> None:
        self.run: Callable[[], Any] = weakref.ref(run)
        self.pending: int = 0
        self._armed = False
        self._gate: threading.Lock | None = None
        self._posts = self._seen = 0
        self._due = self._computed = 0.0

    @abstractmethod
    async def wait(self, waiter: Waiter, withdraw: Callable[[*Ts], bool], args: tuple[*Ts]) -> None:
        """See :meth:`Waiter.wait`."""

    @abstractmethod
    def post(self, waiters: list[Waiter]) -> None:
        """Have the run's own thread wake these. For any thread.

        Raises:
            RuntimeError: the run is over.
        """

    @abstractmethod
    def rouse(self, waiters: list[Waiter]) -> None:
        """Wake these. For the run's own thread."""

    @abstractmethod
    def watch(self) -> None:
        """Have :meth:`look` called from time to time until there is nothing to wait for."""

    def begin(self, waiter: Waiter) -> None:
        """One more wait."""
        if not waiter.from_thread:
            return
        self.pending += 1
        if not self._armed:
            self._armed = True
            self.arm()
            self.watch()

    def end(self, waiter: Waiter) -> None:
        """One wait less."""
        if waiter.from_thread:
            self.pending -= 1

    def posted(self) -> None:
        """An outcome is on its way to the run. Called in the thread that brings it."""
        self._posts += 1
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()

    def arm(self) -> None:
        """The next look is due after :attr:`PATIENCE`, from now on."""
        self._due = time.monotonic() + self.PATIENCE
        self._computed = time.thread_time()

    def look(self) -> bool:
        """Give way if that is called for; False when there is nothing left to wait for."""
        if not self.pending:
            self._armed = False
            return False
        if self._posts == self._seen and self._busy():
            self._give_way()
        self._seen = self._posts
        self.arm()
        return True

    def _busy(self) -> bool:
        if time.monotonic() - self._due > self.LATE:
            return True
        return time.thread_time() - self._computed > self.BUSY * self.PATIENCE

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
    waits: Waits


_here = _Here()


class Waiter:
    """One task's wait for an outcome that another thread or task brings.

    Made in the task that will wait, waited for once, and ended by :func:`wake`.
    An operation completes or is cancelled, never both: a cancellation ends the
    wait only if the work can still be called off. If not, the wait goes on to
    the outcome, and the cancellation is delivered at the task's next await.

    Raises:
        NoEventLoopError: neither asyncio nor trio is running in this thread.
    """

    __slots__ = ("done", "sleeper", "waits")

    #: Whether another thread brings the outcome, which a busy loop then gives way to.
    from_thread: ClassVar[bool] = True

    def __init__(self) -> None:
        run: Any = current_run()
        if _here.run() is not run:
            on_asyncio = isinstance(run, asyncio.AbstractEventLoop)
            _here.waits = _AsyncioWaits(run) if on_asyncio else _TrioWaits(run)
            _here.run = _here.waits.run
        self.waits: Waits = _here.waits
        self.done: bool = False
        #: What sleeps for it: the future, or the task on trio.
        self.sleeper: Any = None

    def wait(self, withdraw: Callable[[*Ts], bool], *args: *Ts) -> Coroutine[Any, Any, None]:
        """Return when woken; raise the cancellation if ``withdraw(*args)`` called the work off."""
        return self.waits.wait(self, withdraw, args)


class _AsyncioWaits(Waits):
    def __init__(self, run: asyncio.AbstractEventLoop) -> None:
        super().__init__(run)
        #: Tasks whose cancellation was absorbed, with the requests that they had before it.
        self._absorbed: dict[asyncio.Task[Any], int] = {}

    async def wait(self, waiter: Waiter, withdraw: Callable[[*Ts], bool], args: tuple[*Ts]) -> None:
        loop = self.run()
        task = asyncio.current_task(loop)
        assert task is not None, "a coroutine on asyncio always runs in a task"
        # What was absorbed before and is still to be redelivered is no business of this call's.
        cancelling = self._absorbed.get(task, task.cancelling())
        absorbed: asyncio.CancelledError | None = None
        self.begin(waiter)
        try:
            while not waiter.done:
                waiter.sleeper = asyncio.Future(loop=loop)
                try:
                    await waiter.sleeper
                except asyncio.CancelledError as error:
                    if not waiter.done and withdraw(*args):
                        raise
                    absorbed = error
                except BaseException:
                    withdraw(*args)
                    raise
        finally:
            self.end(waiter)
        if absorbed is not None:
            # Later, not now: delivered at once, it would outlive a timeout block that ends
            # right after this call.
            self._absorbed[task] = cancelling
            loop.call_soon(self._redeliver, task, absorbed.args)

    def _redeliver(self, task: asyncio.Task[Any], args: tuple[Any, ...]) -> None:
        cancelling = self._absorbed.pop(task, None)
        # The scope that cancelled may have ended meanwhile; it has then taken its request back.
        if cancelling is not None and not task.done() and task.cancelling() > cancelling:
            task.uncancel()
            task.cancel(*args)

    def post(self, waiters: list[Waiter]) -> None:
        loop = self.run()
        if loop is not None:
            loop.call_soon_threadsafe(self.rouse, waiters)

    def rouse(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            waiter.done = True
            future = waiter.sleeper
            if future is not None and not future.done():
                future.set_result(None)

    def watch(self) -> None:
        def look() -> None:
            if self.look():
                self.watch()

        self.run().call_later(self.PATIENCE, look)


class _TrioWaits(Waits):
    async def wait(self, waiter: Waiter, withdraw: Callable[[*Ts], bool], args: tuple[*Ts]) -> None:
        from trio import lowlevel

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if not withdraw(*args):
                return lowlevel.Abort.FAILED
            waiter.sleeper = None
            return lowlevel.Abort.SUCCEEDED

        if waiter.done:
            return
        waiter.sleeper = lowlevel.current_task()
        self.begin(waiter)
        try:
            await lowlevel.wait_task_rescheduled(abort)
        finally:
            self.end(waiter)

    def post(self, waiters: list[Waiter]) -> None:
        token = self.run()
        if token is not None:
            token.run_sync_soon(self.rouse, waiters)

    def rouse(self, waiters: list[Waiter]) -> None:
        reschedule = sys.modules["trio"].lowlevel.reschedule
        for waiter in waiters:
            waiter.done = True
            if waiter.sleeper is not None:
                reschedule(waiter.sleeper)

    def watch(self) -> None:
        # At the very end of a run there are no more system tasks; nor is it busy then.
        with suppress(RuntimeError):
            sys.modules["trio"].lowlevel.spawn_system_task(self._look_now_and_then)

    async def _look_now_and_then(self) -> None:
        import trio

        looking = True
        while looking:
            await trio.sleep(self.PATIENCE)
            looking = self.look()


def wake(waiters: Iterable[Waiter]) -> None:
    """Wake these, from any thread, with one call into each event loop."""
    by_run: dict[Waits, list[Waiter]] = {}
    for waiter in waiters:
        by_run.setdefault(waiter.waits, []).append(waiter)
    here = _running()
    for waits, group in by_run.items():
        try:
            # From within the run it needs no turn of the loop.
            inside = here is not None and waits.run() is here
            (waits.rouse if inside else waits.post)(group)
            waits.posted()
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
