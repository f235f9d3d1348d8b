"""One pool of connections for each run of an event loop, behind one object.

A connection belongs to the loop that opened it: used from another one it fails
after its request was sent. So what is shared holds a pool for each run, and
the pool is closed when the run ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from asynchistory.forks import in_child
from asynchistory.runs import at_end, current_run, has_ended


class Pool(Protocol):
    """Connections of one event loop."""

    async def aclose(self) -> None:
        """Close them."""


P = TypeVar("P", bound=Pool)


class RunPools(Generic[P]):
    """The pools of all runs. For any event loop and thread.

    Args:
        make: makes a pool. False: one whose connections do not outlive their answers.
    """

    def __init__(self, make: Callable[[bool], P]) -> None:
        self._make = make
        # By the run itself: its id() is given again. The entry goes when the run ends.
        self._pools: dict[object, tuple[P, AsyncGenerator[None, None]]] = {}
        self._ended: WeakSet[object] = WeakSet()
        self._parents: list[object] = []
        in_child(self, "_forget")

    def __len__(self) -> int:
        """How many runs have a pool."""
        return len(self._pools)

    async def here(self) -> P:
        """The pool of the running loop.

        Raises:
            NoEventLoopError: neither asyncio nor trio is running in this thread.
        """
        run = current_run()
        found = self._pools.get(run)
        return await self._open(run) if found is None else found[0]

    async def _open(self, run: object) -> P:
        for other in [other for other in list(self._pools) if has_ended(other)]:
            # Closed without its generators having been: all that is left is to let go of it.
            self._pools.pop(other, None)
        if run in self._ended:  # its last steps: nothing would close a pool any more
            return self._make(False)
        pool = self._make(True)

        async def close() -> None:
            if self._pools.get(run, (None,))[0] is pool:
                self._ended.add(run)
                del self._pools[run]
                await pool.aclose()

        guard = at_end(close)
        self._pools[run] = pool, guard
        await anext(guard)  # from now on the loop closes it at its end
        return pool

    def _forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        # Kept, and so not closed: closing says goodbye to the server in the parent's name.
        self._parents.append(self._pools)
        self._pools = {}


def cut_tracebacks(error: BaseException, before: BaseException | None) -> None:
    """Cut the tracebacks of an error and of what led to it, up to what was there before.

    What sends a request has its headers in local variables, and what logs tracebacks
    with their locals would log the key.
    """
    seen, todo = {id(before)}, [error]
    while todo:
        one = todo.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            led = (one.__cause__, one.__context__, *getattr(one, "exceptions", ()))
            todo += [other for other in led if other is not None]
