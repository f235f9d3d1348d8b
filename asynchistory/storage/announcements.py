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


class _Lookout:
    """The waits of one run, the first of which looks, and when it is to look next."""

    __slots__ = ("due", "waits")

    def __init__(self) -> None:
        self.waits: dict[_Wait, None] = {}
        # Of the run and not of a wait: or those that come and go would put it off for ever.
        self.due = anyio.current_time() + POLL

    @property
    def first(self) -> _Wait | None:
        return next(iter(self.waits), None)


class Announcements:
    """The waits for changes of one store's sessions, in all event loops of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_session: dict[str, set[_Wait]] = {}
        self._by_run: dict[object, _Lookout] = {}

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._by_session.values())) + len(self._by_run)

    def announce(self, session_id: str) -> None:
        """A session has changed. For any thread; nearly free where nobody waits for it."""
        if session_id in self._by_session:
            with self._lock:
                waits = list(self._by_session.get(session_id, ()))
            _wake(waits)

    async def changed(self, session_id: str, since: Version | None, version: VersionOf) -> None:
        """Return when ``version(session_id)`` is not, or no longer, ``since``."""
        wait = _Wait(session_id, since)
        lookout = self._join(wait)
        try:
            while await version(session_id) == since:
                if lookout.first is wait:
                    await self._look_out(wait, lookout, version)
                else:
                    await wait.event.wait()
                # Before the next look at the version, or what comes behind that would be missed.
                wait.event = anyio.Event()
        finally:
            self._leave(wait)

    def _join(self, wait: _Wait) -> _Lookout:
        with self._lock:
            self._by_session.setdefault(wait.session_id, set()).add(wait)
            lookout = self._by_run.setdefault(wait.run, _Lookout())
            lookout.waits[wait] = None
            return lookout

    def _leave(self, wait: _Wait) -> None:
        with self._lock:
            waits = self._by_session[wait.session_id]
            waits.remove(wait)
            if not waits:
                del self._by_session[wait.session_id]
            lookout = self._by_run[wait.run]
            looked = lookout.first is wait
            del lookout.waits[wait]
            heir = lookout.first
            if heir is None:
                del self._by_run[wait.run]
        if looked and heir is not None:
            _wake([heir])

    async def _look_out(self, wait: _Wait, lookout: _Lookout, version: VersionOf) -> None:
        """Wait until an announcement or the next look, which wakes whose session has moved."""
        with anyio.CancelScope(deadline=lookout.due):
            await wait.event.wait()
        if anyio.current_time() < lookout.due:
            return
        with self._lock:
            waits = list(lookout.waits)
        places: dict[str, Version | None] = {}
        try:
            for session_id in {wait.session_id for wait in waits}:
                places[session_id] = await version(session_id)
        except Exception:
            _wake(waits)  # each finds out for itself what is wrong
        else:
            _wake(wait for wait in waits if places[wait.session_id] != wait.since)
        lookout.due = anyio.current_time() + POLL


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
