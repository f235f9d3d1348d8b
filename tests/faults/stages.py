"""How far each append is, seen from outside: what the writer thread is just doing to it.

The writer's work on a batch is seen where it is done (``WriteGroup.append``), its commits by
SQLite's own hooks. Nothing of the store is changed by that, and nothing of its inside is named
but that one method.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from asynchistory.storage.port import Batch
from asynchistory.storage.sqlite.writes import WriteGroup

#: In the order of an append's life. What is ``queued`` can still be taken back.
STAGES = ("unstarted", "queued", "claimed", "committing", "committed")


class Stages:
    """Where the batches of one store are.

    Some stages last for microseconds only, while the writer keeps the interpreter to itself. So it
    is held at each of them for a turn of whoever calls :meth:`turn`, as a slow disk would hold it.
    """

    def __init__(self) -> None:
        self._transaction = 1
        self._committing = self._committed = 0
        self._claims: dict[str, int] = {}
        self._held: tuple[int, str] = (0, "")
        self._turns = 0
        self._turning = False
        self._turned = threading.Condition()

    def of(self, batch: str) -> str:
        """The stage of a batch that was handed to the store."""
        transaction = self._claims.get(batch)
        if transaction is None:
            return "queued"
        if transaction <= self._committed:
            return "committed"
        return "committing" if transaction <= self._committing else "claimed"

    def turn(self, more: bool) -> None:
        """Everything was looked at once, and will be again if there is ``more`` to look for."""
        with self._turned:
            self._turns += 1
            self._turning = more
            self._turned.notify_all()

    def _hold(self, stage: str) -> None:
        if self._held == (self._transaction, stage):
            return
        self._held = (self._transaction, stage)
        with self._turned:
            until = self._turns + 2  # the turn under way may have passed by already
            self._turned.wait_for(lambda: not self._turning or self._turns >= until, 1)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the store that is opened in this block."""
        append = WriteGroup.append

        def watched(group: WriteGroup, batch: Batch) -> Any:
            name = batch.rows[0].body.partition('"batch":"')[2].partition('"')[0]
            self._claims[name] = self._transaction
            return append(group, batch)

        hook: Callable[[apsw.Connection], None] = self._watch
        apsw.connection_hooks.append(hook)
        WriteGroup.append = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            WriteGroup.append = append  # type: ignore[method-assign]
            apsw.connection_hooks.remove(hook)

    def _watch(self, connection: apsw.Connection) -> None:
        connection.set_commit_hook(self._on_commit)
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._on_end)

    def _on_commit(self) -> bool:
        self._committing = self._transaction
        self._hold("committing")
        return False  # go on with it

    def _on_end(self, event: dict[str, Any]) -> None:
        if event["sql"] == "BEGIN IMMEDIATE":
            self._hold("queued")  # the lock is there, and nothing claimed
        elif event["sql"].startswith("INSERT INTO records"):
            self._hold("claimed")
        elif event["sql"] == "COMMIT" and self._committing == self._transaction:
            self._committed = self._transaction
            self._hold("committed")
            self._transaction += 1
