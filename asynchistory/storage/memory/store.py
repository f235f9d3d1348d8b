"""The memory store."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from typing import Any, Literal

from asynchistory.errors import SessionExistsError
from asynchistory.queries import (
    Appended,
    CostStatistics,
    HistoryPage,
    HistoryQuery,
    LLMStatistics,
    SearchHit,
    SearchQuery,
    Session,
    SessionPage,
    SessionSummary,
    StatisticsQuery,
    StoreCounts,
    StoreHealth,
    StoreStatistics,
    Tail,
    TokenStatistics,
    Truncated,
    Version,
)
from asynchistory.records import JSON
from asynchistory.storage.cursors import make_cursor, parse_cursor
from asynchistory.storage.keys import appended, pack, truncated
from asynchistory.storage.memory import statistics
from asynchistory.storage.memory.archiving import Archiving
from asynchistory.storage.memory.homes import Home, check_epoch, check_seq
from asynchistory.storage.memory.search import search
from asynchistory.storage.port import Batch, Cut, Deleted, ForkPlan, Key, fork_seq, stays
from asynchistory.storage.select import select


class MemoryStorage(Archiving):
    """Sessions in this process's memory, shared by all its event loops and threads.

    Its contents live as long as the object; closing it loses nothing.
    """

    # -- records

    async def append(self, batch: Batch) -> Appended:
        await self._enter()
        with self._lock:
            return self._put(batch, keep=True)

    async def replace(self, batch: Batch) -> Appended:
        await self._enter()
        with self._lock:
            return self._put(batch, keep=False)

    def _put(self, batch: Batch, *, keep: bool) -> Appended:
        home = self._homes.get(batch.session_id)
        if home and (earlier := home.earlier(batch.idempotency_key, batch.digest)):
            return appended(batch, earlier, replayed=True)
        actual = 0 if home is None else home.session.seq
        check_seq(batch.session_id, batch.expected_seq, actual)
        if home is None:
            home = self._make(batch.session_id)
        elif not keep:
            home.shrink(0, self._next_epoch())
        first = home.session.seq + 1
        home.grow(self._place(batch.rows), batch.calls)
        key = Key(
            batch.idempotency_key or "", batch.digest, home.session.epoch, first, len(home.rows)
        )
        home.remember(key)
        return appended(batch, key, replayed=False)

    async def truncate(self, cut: Cut) -> Truncated:
        await self._enter()
        with self._lock:
            home = self._find(cut.session_id)
            if earlier := home.earlier(cut.idempotency_key, cut.digest):
                return truncated(cut, earlier, replayed=True)
            check_epoch(home.session, cut.epoch)
            check_seq(cut.session_id, cut.expected_seq, home.session.seq)
            seq, left = home.session.seq, stays(cut, home.session.seq)
            removed = None
            if cut.keep:
                removed = pack(enumerate((row for _, row in home.rows[left:]), left + 1))
            if left < seq:
                home.shrink(left, self._next_epoch())
            epoch = home.session.epoch
            key = Key(cut.idempotency_key or "", cut.digest, epoch, left, seq, removed)
            home.remember(key)
            return truncated(cut, key, replayed=False)

    async def version(self, session_id: str) -> Version | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            return None if home is None else home.version

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                return None
            return Tail(home.version, tuple(home.records(home.session.seq - limit)))

    async def read(self, query: HistoryQuery) -> HistoryPage:
        await self._enter()
        with self._lock:
            home = self._find(query.session_id)
            return select(home.records(), query, home.session.epoch)

    async def search(self, query: SearchQuery) -> list[SearchHit]:
        await self._enter()
        with self._lock:
            return search(self._homes, query)

    # -- sessions

    async def create_session(
        self,
        session_id: str,
        *,
        user_id: str | None,
        title: str | None,
        metadata: dict[str, JSON],
        expires_at: datetime | None,
        exist_ok: bool,
    ) -> Session:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                home = self._make(session_id)
                home.change(user_id=user_id, title=title, metadata=metadata, expires_at=expires_at)
            elif not exist_ok:
                raise SessionExistsError(session_id)
            return deepcopy(home.session)

    async def get_session(self, session_id: str) -> Session | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            return None if home is None else deepcopy(home.session)

    async def list_sessions(
        self,
        *,
        user_id: str | None,
        metadata: dict[str, JSON] | None,
        order: Literal["updated", "created"],
        limit: int,
        after: str | None,
    ) -> SessionPage:
        await self._enter()
        newest = order == "updated"
        with self._lock:
            homes = self._selected(None, user_id)
            keyed = [(_moment(home, order), home) for home in homes if _has(home, metadata)]
        keyed.sort(key=lambda entry: entry[0], reverse=newest)
        if after is not None:
            place = parse_cursor(after)
            keyed = [entry for entry in keyed if (entry[0] < place if newest else entry[0] > place)]
        page = keyed[:limit]
        more = len(keyed) > limit > 0
        return SessionPage(
            sessions=tuple(deepcopy(home.session) for _, home in page),
            next=make_cursor(*page[-1][0]) if more else None,
        )

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | None,
        metadata: dict[str, JSON] | None,
        user_id: str | None,
        expires_at: datetime | Literal["never"] | None,
    ) -> Session:
        await self._enter()
        given = {
            "title": title,
            "metadata": metadata,
            "user_id": user_id,
            "expires_at": expires_at,
        }
        with self._lock:
            home = self._find(session_id)
            changes: dict[str, Any] = {
                name: value for name, value in given.items() if value is not None
            }
            if expires_at == "never":
                changes["expires_at"] = None
            if changes:
                home.change(**changes)
            return deepcopy(home.session)

    async def delete_session(self, session_id: str) -> bool:
        await self._enter()
        return bool(await self._delete_where(lambda session: session.id == session_id, 1))

    async def fork(self, plan: ForkPlan) -> Session:
        await self._enter()
        with self._lock:
            parent = self._find(plan.session_id)
            check_epoch(parent.session, plan.epoch)
            seq = fork_seq(plan, parent.session.seq)
            if plan.new_id in self._homes:
                raise SessionExistsError(plan.new_id)
            owner = parent.session.user_id
            rows = parent.rows[:seq]
            if plan.user_id not in (None, owner):
                rows = self._place([row for _, row in rows])
            home = self._make(plan.new_id)
            home.rows = rows
            home.change(
                user_id=plan.user_id or owner,
                title=parent.session.title if plan.title is None else plan.title,
                metadata=parent.session.metadata if plan.metadata is None else plan.metadata,
                expires_at=plan.expires_at,
                seq=seq,
                forked_from=plan.session_id,
                fork_seq=seq,
            )
            return deepcopy(home.session)

    async def prune(
        self, *, now: datetime, older_than: datetime | None, most: int
    ) -> list[Deleted]:
        def due(session: Session) -> bool:
            expired = session.expires_at is not None and session.expires_at <= now
            return expired or (older_than is not None and session.updated_at < older_than)

        return await self._delete_where(due, most)

    async def erase_user(self, user_id: str, *, most: int) -> list[Deleted]:
        return await self._delete_where(lambda session: session.user_id == user_id, most)

    async def scrub(self) -> None:
        await self._enter()

    async def _delete_where(self, due: Callable[[Session], bool], most: int) -> list[Deleted]:
        await self._enter()
        with self._lock:
            homes = [home for home in self._homes.values() if due(home.session)][:most]
            return [Deleted(home.session.id, self._remove(home)) for home in homes]

    def _remove(self, home: Home) -> int:
        """Delete a session; returns how many records no other one shares."""
        del self._homes[home.session.id]
        gone = {place for place, _ in home.rows}
        for other in self._homes.values():
            other.orphan(home.session.id)
            gone.difference_update(place for place, _ in other.rows)
        return len(gone)

    async def health(self) -> StoreHealth:
        await self._enter()
        return StoreHealth(url=self.url, write_time=0.0, read_time=0.0, statistics=self.stats())

    def stats(self) -> StoreStatistics:
        return StoreStatistics()

    # -- counting

    async def summary(self, session_id: str) -> SessionSummary | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                return None
            return SessionSummary(session=deepcopy(home.session), **statistics.count([home]))

    async def counts(self) -> StoreCounts:
        await self._enter()
        with self._lock:
            homes = list(self._homes.values())
            return StoreCounts(sessions=len(homes), **statistics.count(homes))

    async def token_statistics(self, query: StatisticsQuery) -> TokenStatistics:
        return await self._statistics(query, statistics.tokens)

    async def cost_statistics(self, query: StatisticsQuery) -> CostStatistics:
        return await self._statistics(query, statistics.costs)

    async def llm_statistics(self, query: StatisticsQuery) -> LLMStatistics:
        return await self._statistics(query, statistics.llm)

    async def _statistics(
        self, query: StatisticsQuery, total: Callable[[list[Any]], statistics.S]
    ) -> statistics.S:
        await self._enter()
        with self._lock:
            homes = self._selected(query.session_id, query.user_id)
            return statistics.statistics(homes, query, total)


def _moment(home: Home, order: str) -> tuple[int, int]:
    moment = home.session.updated_at if order == "updated" else home.session.created_at
    return round(moment.timestamp() * 1_000_000), home.number


def _has(home: Home, metadata: dict[str, JSON] | None) -> bool:
    held = home.session.metadata
    return all(
        name in held and _same(held[name], value) for name, value in (metadata or {}).items()
    )


def _same(one: JSON, other: JSON) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
