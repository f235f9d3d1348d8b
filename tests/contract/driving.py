"""A store and the model side by side: each call is made on both, and must end the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from anyio.from_thread import start_blocking_portal
from msgspec.structs import replace

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryQuery,
    Level,
    SessionNotFoundError,
    Storage,
    TailCache,
)
from tests.contract.chats import LEVELS
from tests.contract.model import Chat, Epochs, Model, outcome


class Cursor(NamedTuple):
    """A page's ``next``, and what it stands for."""

    session_id: str
    direction: str
    text: str
    epoch: int | None
    seq: int


class Pair:
    """Two handles of one store, each with a cache of its own, and the model of it.

    They live on one event loop, in a thread of its own, until :meth:`close`.
    """

    def __init__(self, backend: str, make_storage: Callable[[Path], Callable[[], Storage]]) -> None:
        self.model = Model()
        self.epochs = Epochs()
        self.stamped = 0
        #: Sessions that the other handle may have changed since this one looked.
        self.unaware: list[set[str]] = [set(), set()]
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self.portal = self._stack.enter_context(start_blocking_portal(backend))
        make = make_storage(folder)
        self.handles = [AsyncHistoryManager(make(), TailCache()) for _ in range(2)]
        for handle in self.handles:
            self._stack.enter_context(self.portal.wrap_async_context_manager(handle))

    def close(self) -> None:
        self._stack.close()

    def call(self, by: int, method: str, *args: Any, **options: Any) -> Any:
        """The store's answer, or what it raised."""
        return outcome(
            lambda: self.portal.call(partial(getattr(self.handles[by], method), *args, **options))
        )

    def write(self, by: int, method: str, *args: Any, **options: Any) -> None:
        """Make a call on both sides; it must end the same."""
        before = set(self.model.chats)
        wanted = outcome(lambda: getattr(self.model, method)(*args, **options))
        found = self.call(by, method, *args, **options)
        self.epochs.compare(wanted, found)
        self.unaware[1 - by] |= before | set(self.model.chats)

    def seq(self, name: str, belief: str | None) -> int | None:
        return None if belief is None else self.model.length(name) + (belief == "wrong")

    def epoch(self, name: str, belief: str | None) -> int | None:
        chat = self.model.chats.get(name)
        if belief is None or chat is None or chat.epoch.number is None:
            return None
        return chat.epoch.number - (belief == "wrong")

    def stamp(self, records: list[Any]) -> list[Any]:
        """Give each record an id of its own."""
        stamped = []
        for record in records:
            self.stamped += 1
            stamped.append(replace(record, record_id=f"{self.stamped:032x}"))
        return stamped

    def remove(self, by: int, method: str, argument: Any, *, wanted: Any) -> None:
        before = set(self.model.chats)
        assert self.call(by, method, argument) == wanted()
        self.unaware[1 - by] |= before

    # -- reads

    def levels(self, by: int, name: str) -> list[Level]:
        """At which the handle must know the session as it is: the least checked first."""
        return ["validated", "fresh"] if name in self.unaware[by] else list(LEVELS)

    def check_page(self, by: int, query: HistoryQuery, cursor: Cursor | None) -> Cursor | None:
        chat = self.model.chats.get(query.session_id)
        if chat is None or (cursor is not None and cursor.epoch != chat.epoch.number):
            error = SessionNotFoundError if chat is None else EpochChangedError
            for level in ("validated", "fresh"):
                found = self.call(by, "query_history", query, level=level)
                assert type(found) is error
            return None
        records, total, seq = self.model.page(query, cursor and cursor.seq)
        for level in self.levels(by, query.session_id):
            found = self.call(by, "query_history", query, level=level)
            assert list(found.records) == records
            assert found.total == (total if query.with_total else None)
            assert (found.next is None) == (seq is None)
        if seq is None:
            return None
        direction = "before" if query.newest or query.before else "after"
        return Cursor(query.session_id, direction, found.next, chat.epoch.number, seq)

    # -- what always holds

    async def check_sessions(self) -> None:
        for name in self.model.gone:
            await self._check_caches(name, None)
        for chat in self.model.chats.values():
            records = chat.records
            await self._check_caches(chat.name, records)
            fresh = await self.handles[0].last(chat.name, 10_000, level="fresh")
            assert list(fresh) == records
            session = await self.handles[1].get_session(chat.name)
            self.epochs.compare(chat.session(), session)
            self._check_times(chat, session)

    async def _check_caches(self, name: str, records: list[Any] | None) -> None:
        """What both handles' caches have is current; None is that there is no such session."""
        for by, handle in enumerate(self.handles):
            for level in self.levels(by, name)[:-1]:
                try:
                    found = list(await handle.last(name, 10_000, level=level))
                except SessionNotFoundError:
                    found = None
                assert found == records
            self.unaware[by].discard(name)

    @staticmethod
    def _check_times(chat: Chat, session: Any) -> None:
        """The time of the last write changes with a write alone, and never goes back."""
        if chat.updated_at is not None:
            assert session.created_at == chat.created_at
            assert session.updated_at >= chat.updated_at
            assert chat.written or session.updated_at == chat.updated_at
        chat.created_at, chat.updated_at = session.created_at, session.updated_at
        chat.written = False
