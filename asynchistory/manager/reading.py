"""The manager's reads of records."""

from __future__ import annotations

from datetime import datetime
from sys import modules

from asynchistory.cache.tail import Level
from asynchistory.checks import check_limit, check_query, check_search, check_session_id
from asynchistory.manager.base import Base
from asynchistory.queries import (
    MAX_PAGE,
    HistoryPage,
    HistoryQuery,
    SearchHit,
    SearchOrder,
    SearchQuery,
)
from asynchistory.records import StoredRecord
from asynchistory.runs import checkpoint_if_cancelled, in_trio


class Reading(Base):
    """Tails, pages and search."""

    async def last(
        self, session_id: str, count: int = 20, *, level: Level | None = None
    ) -> tuple[StoredRecord, ...]:
        """The newest ``count`` records, oldest first.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        if (level or self.level) == "cached" and type(count) is int and 0 <= count <= MAX_PAGE:
            # What is held under this id was checked when it was put in.
            records = self.cache.peek(session_id, count)
            if records is not None:
                if "trio" in modules and in_trio():
                    await checkpoint_if_cancelled()
                return records
        check_session_id(session_id)
        check_limit(count, "count")
        level = self._level(level)
        tail = await self.cache.tail(self.storage, session_id, count, level)
        return tail.records

    def peek(
        self, session_id: str, count: int = 20, *, level: Level | None = None
    ) -> tuple[StoredRecord, ...] | None:
        """What :meth:`last` gives where it need not wait: at level ``cached``, from the cache.

        None where the store has to be asked. Needs no event loop, and can be called in any thread.
        """
        if (self.level if level is None else level) != "cached" or type(session_id) is not str:
            return None
        check_limit(count, "count")
        return self.cache.peek(session_id, count)

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
        record_types: tuple[str, ...] | None = None,
        role: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        order: SearchOrder = "newest",
        limit: int = 20,
    ) -> tuple[SearchHit, ...]:
        """Messages and tool calls in which each word of ``text`` occurs, with snippets.

        A word is found anywhere, inside other words too, in any case and any
        script: ``C++``, ``foo-bar``, two Chinese characters. See
        :class:`SearchQuery` for the filters and the orders.

        Raises:
            InvalidQueryError: there is no word, or a filter cannot be used.
        """
        query = SearchQuery(
            text=text,
            session_id=session_id,
            user_id=user_id,
            record_types=record_types,
            role=role,
            start_time=start_time,
            end_time=end_time,
            order=order,
            limit=limit,
        )
        check_search(query)
        return tuple(await self.storage.search(query))
