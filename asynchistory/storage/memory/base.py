"""What every part of the memory store stands on: its sessions, and the lock that guards them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from asynchistory.codec import Row
from asynchistory.errors import NotOpenError, SessionNotFoundError
from asynchistory.runs import checkpoint_if_cancelled
from asynchistory.storage.memory.homes import Home, Placed
from asynchistory.storage.port import Storage


class Homes(Storage):
    """The sessions. What begins with an underscore, but for ``_enter``, is used under the lock."""

    def __init__(self, name: str = "") -> None:
        self.url: str = f"memory://{name}"
        self._lock = threading.Lock()
        self._openers = 0
        self._homes: dict[str, Home] = {}
        self._made = 0
        self._epoch = 0
        self._written = 0

    async def open(self) -> None:
        with self._lock:
            self._openers += 1

    async def aclose(self) -> None:
        with self._lock:
            self._openers = max(0, self._openers - 1)

    async def _enter(self) -> None:
        if not self._openers:
            raise NotOpenError(f"{self.url} is not open; use `async with` around its use")
        # Before anything is done: from here on each method runs to its end.
        await checkpoint_if_cancelled()

    def _find(self, session_id: str) -> Home:
        home = self._homes.get(session_id)
        if home is None:
            raise SessionNotFoundError(session_id)
        return home

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _place(self, rows: Sequence[Row]) -> list[Placed]:
        start = self._written + 1
        self._written += len(rows)
        return list(enumerate(rows, start))

    def _make(self, session_id: str) -> Home:
        self._made += 1
        home = self._homes[session_id] = Home(session_id, self._made, self._next_epoch())
        return home

    def _selected(self, session_id: str | None, user_id: str | None) -> list[Home]:
        return [
            home
            for home in self._homes.values()
            if session_id in (None, home.session.id) and user_id in (None, home.session.user_id)
        ]
