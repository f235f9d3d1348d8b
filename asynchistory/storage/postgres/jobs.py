"""What waits for a run's writers: appends, which go in groups, and all other changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from asynchistory.runs import Waiter
from asynchistory.storage.port import Batch
from asynchistory.storage.postgres.sql import Statements


class _State(Enum):
    QUEUED = auto()
    CLAIMED = auto()
    WITHDRAWN = auto()


# A name of a module is found in a quarter of the time of an enumeration's.
_QUEUED, _CLAIMED, _WITHDRAWN = _State


class Job(Waiter):
    """A write, and the task that waits for it. Of one event-loop run, and used in it alone.

    Attributes:
        batch: the append that it is, if it is one.
        work: else what is to be done in a transaction.
        key: the idempotency key, None if it has none.
        plain: ``work`` runs outside of a transaction.
    """

    __slots__ = ("batch", "error", "key", "plain", "result", "state", "work")
    from_thread = False

    def __init__(
        self,
        batch: Batch | None,
        work: Callable[[Statements], Awaitable[Any]] | None = None,
        *,
        key: str | None = None,
        plain: bool = False,
    ) -> None:
        Waiter.__init__(self)
        self.batch: Batch | None = batch
        self.work: Callable[[Statements], Awaitable[Any]] | None = work
        self.key: str | None = key
        self.plain: bool = plain
        self.state: _State = _QUEUED
        self.result: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """Take it, so that nobody can call it off; False if somebody has."""
        if self.state is _QUEUED:
            self.state = _CLAIMED
        return self.state is _CLAIMED

    def withdraw(self) -> bool:
        """Call it off; False if a writer has claimed it."""
        if self.state is _QUEUED:
            self.state = _WITHDRAWN
        return self.state is _WITHDRAWN

    def outcome(self) -> Any:
        """What the work returned, once it is done."""
        if self.error is not None:
            raise self.error
        return self.result
