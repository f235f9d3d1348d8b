"""Who waits for a session to change: woken at once by this process, by looking for others.

What this process writes is announced, and wakes those whom it concerns. For what other
processes write the store has to be looked at: in each run of an event loop one of the waits
does so for all of them, so that a thousand idle ones cost one timer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from asynchistory.queries import Version
from asynchistory.runs import call_in, current_run

if TYPE_CHECKING:
    from asynchistory.storage.port import Storage

#: Seconds between two looks at the store.
POLL = 0.05

#: Where a session stands; see :meth:`asynchistory.storage.port.Storage.version`.
VersionOf: TypeAlias = Callable[[str], Awaitable[Version | None]]


class _Wait:
    """One task that waits for a session to leave ``since``."""

    __slots__ = ("event", "run", "session_id", "since")

    def __init__(self, session_id: str, since: Version | None) -> None:
        self.session_id = session_id
        self.since = since
        self.run = current_run()
        self.event = anyio.Event()


class Announcements:
    """The waits for changes of one store's sessions, in all event loops of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_session: dict[str, set[_Wait]] = {}
        # In the order in which they came; the first of each run looks for them all.
        self._by_run: dict[object, dict[_Wait, None]] = {}

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._by_session.values())) + len(self._by_run)

    def announce(self, session_id: str) -> None:
        """This process has changed a session."""
        self.tell(session_id)

    def tell(self, session_id: str) -> None:
        """A session has changed. For any thread; nearly free where nobody waits for it."""
        if session_id in self._by_session:
            with self._lock:
                waits = list(self._by_session.get(session_id, ()))
            _wake(waits)

    async def changed(
        self,
        session_id: str,
        since: Version | None,
        version: VersionOf,
        poll: Callable[[], float] = lambda: POLL,
    ) -> None:
        """Return when ``version(session_id)`` is not, or no longer, ``since``.

        ``poll`` says how many seconds to wait until the next look at the store.
        """
        wait = _Wait(session_id, since)
        self._join(wait)
        try:
            while await version(session_id) == since:
                if self._first(wait.run) is wait:
                    with anyio.move_on_after(poll()):
                        await wait.event.wait()
                    await self._look(wait.run, version)
                else:
                    await wait.event.wait()
                # Before the next look at the version, or what comes behind that would be missed.
                wait.event = anyio.Event()
        finally:
            self._leave(wait)

    def _join(self, wait: _Wait) -> None:
        with self._lock:
            self._by_session.setdefault(wait.session_id, set()).add(wait)
            self._by_run.setdefault(wait.run, {})[wait] = None

    def _leave(self, wait: _Wait) -> None:
        with self._lock:
            looked = self._first(wait.run) is wait
            of_session, of_run = self._by_session[wait.session_id], self._by_run[wait.run]
            of_session.remove(wait)
            if not of_session:
                del self._by_session[wait.session_id]
            del of_run[wait]
            if not of_run:
                del self._by_run[wait.run]
            heir = self._first(wait.run)
        if looked and heir is not None:
            _wake([heir])

    def _first(self, run: object) -> _Wait | None:
        return next(iter(self._by_run.get(run, ())), None)

    async def _look(self, run: object, version: VersionOf) -> None:
        """Wake those of a run whose session has moved on."""
        with self._lock:
            waits = list(self._by_run[run])
        places: dict[str, Version | None] = {}
        try:
            for session_id in {wait.session_id for wait in waits}:
                places[session_id] = await version(session_id)
        except Exception:
            _wake(waits)  # each finds out for itself what is wrong
        else:
            _wake(wait for wait in waits if places[wait.session_id] != wait.since)


def _wake(waits: Iterable[_Wait]) -> None:
    by_run: dict[object, list[_Wait]] = {}
    for wait in waits:
        by_run.setdefault(wait.run, []).append(wait)
    for run, group in by_run.items():
        call_in(run, partial(_set, group))


def _set(waits: list[_Wait]) -> None:
    for wait in waits:
        wait.event.set()


_of: weakref.WeakKeyDictionary[Storage, Announcements] = weakref.WeakKeyDictionary()
_of_lock = threading.Lock()


def announcements_of(storage: Storage) -> Announcements:
    """Those of a store, the same for all its managers."""
    with _of_lock:
        found = _of.get(storage)
        if found is None:
            found = _of[storage] = Announcements()
        return found
