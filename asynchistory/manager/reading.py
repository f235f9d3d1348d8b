"""The manager's reads of records."""

from __future__ import annotations

from asynchistory.cache.tail import Level
from asynchistory.checks import check_limit, check_query, check_session_id, check_text_id
from asynchistory.manager.base import Base
from asynchistory.queries import HistoryPage, HistoryQuery
from asynchistory.records import StoredRecord


class Reading(Base):
    """Tails, pages and search."""

    async def last(
        self, session_id: str, count: int = 20, *, level: Level | None = None
    ) -> tuple[StoredRecord, ...]:
        """The newest ``count`` records, oldest first.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        check_limit(count, "count")
        level = self._level(level)
        tail = await self.cache.tail(self.storage, session_id, count, level)
        return tail.records

    async def query_history(
        self, query: HistoryQuery, *, level: Level | None = None
    ) -> HistoryPage:
        """The records that a query asks for, a page of them.

        Raises:
            SessionNotFoundError: there is no such session.
            InvalidQueryError: the query cannot be answered.
            EpochChangedError: its cursor is from before the session was rewritten.
            CorruptRecordError: a record is damaged and the query is ``strict``.
        """
        check_query(query)
        page = await self.cache.page(self.storage, query, self._level(level))
        return await self.storage.read(query) if page is None else page

    async def search(
        self,
        text: str,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        limit: int = 20,
    ) -> tuple[StoredRecord, ...]:
        """Messages and tool calls in which each word of ``text`` occurs, newest first.

        A word is found anywhere, inside other words too, in any case and any
        script: ``C++``, ``foo-bar``, two Chinese characters.
        """
        if session_id is not None:
            check_session_id(session_id)
        check_text_id(user_id, "a user id")
        check_limit(limit)
        found = await self.storage.search(text, session_id=session_id, user_id=user_id, limit=limit)
        return tuple(found)
