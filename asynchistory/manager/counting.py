"""The manager's statistics: computed by the store, never by reading records."""

from __future__ import annotations

from typing import TypedDict, Unpack

from asynchistory.cache.tail import CacheStatistics
from asynchistory.checks import check_session_id, check_statistics
from asynchistory.errors import SessionNotFoundError
from asynchistory.manager.base import Base
from asynchistory.queries import (
    CostStatistics,
    GroupBy,
    LLMStatistics,
    SessionSummary,
    StatisticsQuery,
    StoreCounts,
    StoreHealth,
    StoreStatistics,
    TokenStatistics,
)


class StatisticsOptions(TypedDict, total=False):
    """Over which calls statistics are made; see :class:`StatisticsQuery`."""

    user_id: str | None
    model: str | None
    since: str | None
    until: str | None
    group_by: GroupBy | None


class Counting(Base):
    """How much there is of what, and what it cost."""

    async def get_session_summary(self, session_id: str) -> SessionSummary:
        """A session and the number of its records by type.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        summary = await self.storage.summary(session_id)
        if summary is None:
            raise SessionNotFoundError(session_id)
        return summary

    def get_cache_stats(self) -> CacheStatistics:
        """Hits, misses and size of the cache; shared by the managers of this store."""
        return self.cache.statistics()

    def get_store_stats(self) -> StoreStatistics:
        """How busy the store is: its queue and its commits."""
        return self.storage.stats()

    async def health(self) -> StoreHealth:
        """Whether the store can be written and read now, and how long that takes.

        What fails is told in ``problem`` and not raised; only a history that is
        not open raises :class:`NotOpenError`.
        """
        return await self.storage.health()

    async def count(self) -> StoreCounts:
        """How many sessions, records, messages and tool calls the store holds."""
        return await self.storage.counts()

    async def get_token_statistics(
        self, session_id: str | None = None, **options: Unpack[StatisticsOptions]
    ) -> TokenStatistics:
        """Tokens, each call counted once, by model unless ``group_by`` says otherwise."""
        return await self.storage.token_statistics(_statistics(session_id, options))

    async def get_cost_statistics(
        self, session_id: str | None = None, **options: Unpack[StatisticsOptions]
    ) -> CostStatistics:
        """Costs per currency, each call counted once."""
        return await self.storage.cost_statistics(_statistics(session_id, options))

    async def get_llm_statistics(
        self, session_id: str | None = None, **options: Unpack[StatisticsOptions]
    ) -> LLMStatistics:
        """Requests, responses, finish reasons and times (seconds)."""
        return await self.storage.llm_statistics(_statistics(session_id, options))


def _statistics(session_id: str | None, options: StatisticsOptions) -> StatisticsQuery:
    query = StatisticsQuery(session_id=session_id, **options)
    check_statistics(query)
    return query
