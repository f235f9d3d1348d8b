"""The PostgreSQL store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from asynchistory.codec import Row
from asynchistory.errors import NotOpenError, StorageError, UnsupportedError
from asynchistory.forks import own_lock
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
    Verification,
    Version,
)
from asynchistory.records import JSON
from asynchistory.storage.announcements import announcements_of
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.calls import CallFacts
from asynchistory.storage.port import Batch, Cut, Deleted, ForkPlan, Key, Storage
from asynchistory.storage.postgres import changes, reads, restore, statistics
from asynchistory.storage.postgres.address import Address, parse
from asynchistory.storage.postgres.jobs import Job
from asynchistory.storage.postgres.listening import Listener
from asynchistory.storage.postgres.schema import prepare
from asynchistory.storage.postgres.search import search
from asynchistory.storage.postgres.server import Server
from asynchistory.storage.postgres.sql import Statements
from asynchistory.storage.postgres.verify import verify

T = TypeVar("T")

_PROBE = "INSERT INTO probe AS p VALUES(1, 1) ON CONFLICT (one) DO UPDATE SET value = p.value + 1"
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "
    "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'"
)
_TABLES = ("records", "sessions", "calls", "idempotency", "rollup")


class PostgresStorage(Storage):
    """Sessions in one schema of a PostgreSQL database, for any number of machines.

    Args:
        url: ``postgresql://user:password@host:port/database``, with options of libpq
            (``sslmode``) and of ours: ``schema`` (``asynchistory``), ``pool`` (4
            connections that one event loop reads by), ``lock_timeout`` and
            ``statement_timeout`` (30 and 60 seconds).
        replica: the URL of a server that follows this one. Searches, statistics and
            counts are asked of it, which may be behind by what it has not got yet.
    """

    def __init__(self, url: str, *, replica: str | None = None) -> None:
        self.address: Address = parse(url)
        self.replica: Address | None = None if replica is None else parse(replica)
        self.url: str = self.address.url
        self._lock = own_lock(self, "_lock")
        self._openers = 0
        self._servers: tuple[Server, Server] | None = None

    async def open(self) -> None:
        with self._lock:
            self._openers += 1
            if self._servers is None:
                server = Server(self.address)
                replica = server if self.replica is None else Server(self.replica)
                self._servers = server, replica
            server = self._servers[0]
        try:
            async with server as lane:
                await lane.read(lambda db: prepare(db, self.address), patience=0)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        with self._lock:
            if self._openers > 1 or self._servers is None:
                self._openers = max(0, self._openers - 1)
                return
            servers, self._servers, self._openers = self._servers, None, 0
        for server in dict.fromkeys(servers):
            await server.aclose()

    def _opened(self) -> tuple[Server, Server]:
        servers = self._servers
        if servers is None:
            raise NotOpenError(f"{self.url} is not open; use `async with` around its use")
        return servers

    async def _read(self, work: Callable[[Statements], Awaitable[T]], *, behind: bool = False) -> T:
        """Read; ``behind``: from the replica, if there is one."""
        async with self._opened()[behind] as lane:
            return await lane.read(work)

    async def _write(
        self,
        work: Callable[[Statements], Awaitable[T]],
        key: str | None = None,
        *,
        plain: bool = False,
    ) -> T:
        async with self._opened()[0] as lane:
            result: T = await lane.write(Job(None, work, key=key, plain=plain))
            return result

    # -- records

    async def append(self, batch: Batch) -> Appended:
        async with self._opened()[0] as lane:
            result: Appended = await lane.write(Job(batch, key=batch.idempotency_key))
            return result

    async def replace(self, batch: Batch) -> Appended:
        return await self._write(partial(changes.replace, batch=batch), batch.idempotency_key)

    async def truncate(self, cut: Cut) -> Truncated:
        return await self._write(partial(changes.truncate, cut=cut), cut.idempotency_key)

    async def version(self, session_id: str) -> Version | None:
        return await self._read(partial(reads.version, session_id=session_id))

    async def changed(self, session_id: str, since: Version | None) -> None:
        announcements = announcements_of(self)
        async with self._opened()[0] as lane:
            listener = lane.listener
            if listener is None:
                listener = lane.listener = Listener(lane, announcements)
        with listener.waiting(session_id):
            # Before the look at the version, so that nothing is missed.
            async with self._opened()[0]:
                await listener.hear(session_id, since and since.epoch)
            await announcements.changed(session_id, since, self.version, listener.poll)

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        return await self._read(partial(reads.tail, session_id=session_id, limit=limit))

    async def read(self, query: HistoryQuery) -> HistoryPage:
        return await self._read(partial(reads.page, query=query))

    async def search(self, query: SearchQuery) -> list[SearchHit]:
        return await self._read(partial(search, query=query), behind=True)

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
        return await self._write(
            partial(
                changes.create_session,
                session_id=session_id,
                exist_ok=exist_ok,
                metadata=metadata,
                user_id=user_id,
                title=title,
                expires_at=expires_at,
            )
        )

    async def get_session(self, session_id: str) -> Session | None:
        return await self._read(partial(reads.session_by_id, session_id=session_id))

    async def list_sessions(
        self,
        *,
        user_id: str | None,
        metadata: dict[str, JSON] | None,
        order: Literal["updated", "created"],
        limit: int,
        after: str | None,
    ) -> SessionPage:
        return await self._read(
            lambda db: reads.sessions(db, user_id, metadata, order, limit, after)
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
        return await self._write(
            partial(
                changes.update_session,
                session_id=session_id,
                title=title,
                metadata=metadata,
                user_id=user_id,
                expires_at=expires_at,
            )
        )

    async def delete_session(self, session_id: str) -> bool:
        return await self._write(partial(changes.delete, session_id=session_id))

    async def fork(self, plan: ForkPlan) -> Session:
        return await self._write(partial(changes.fork, plan=plan))

    async def prune(
        self, *, now: datetime, older_than: datetime | None, most: int
    ) -> list[Deleted]:
        where, values = changes.due(now, older_than)
        return await self._write(lambda db: changes.prune(db, where, values, most))

    async def erase_user(self, user_id: str, *, most: int) -> list[Deleted]:
        return await self._write(lambda db: changes.erase(db, user_id, most))

    async def scrub(self) -> None:
        # A deleted row stays where it was until its table is written anew.
        async def vacuum(db: Statements) -> None:
            await db.run("SET statement_timeout = 0")
            try:
                for table in _TABLES:
                    await db.run(f"VACUUM (FULL, ANALYZE) {table}")
            finally:
                await db.run(
                    f"SET statement_timeout = {int(self.address.statement_timeout * 1000)}"
                )

        await self._write(vacuum, plain=True)

    async def health(self) -> StoreHealth:
        write_time = read_time = problem = size = None
        start = time.perf_counter()
        try:
            await self._write(_probe)
            written = time.perf_counter()
            write_time = written - start
            size = await self._read(lambda db: db.scalar(_SIZE))
            read_time = time.perf_counter() - written
        except StorageError as error:
            problem = str(error)
        return StoreHealth(
            url=self.url,
            problem=problem,
            write_time=write_time,
            read_time=read_time,
            file_bytes=size,
            statistics=self.stats(),
        )

    def stats(self) -> StoreStatistics:
        return self._opened()[0].statistics()

    # -- archives

    async def idempotency_keys(self, session_id: str) -> SessionKeys | None:
        return await self._read(partial(restore.keys, session_id=session_id))

    async def restore(
        self,
        session: Session,
        rows: Sequence[Row],
        calls: Sequence[CallFacts],
        keys: Sequence[Key],
    ) -> Session:
        return await self._write(lambda db: restore.restore(db, session, rows, calls, keys))

    async def verify(self) -> Verification:
        return await self._read(verify)

    async def backup(self, path: Path, *, overwrite: bool) -> None:
        self._opened()
        raise UnsupportedError(
            f"{self.url} is a server's and has no file to copy; use pg_dump, or "
            "`asynchistory copy URL history.db`"
        )

    # -- counting

    async def summary(self, session_id: str) -> SessionSummary | None:
        return await self._read(partial(reads.summary, session_id=session_id))

    async def counts(self) -> StoreCounts:
        return await self._read(reads.counts, behind=True)

    async def token_statistics(self, query: StatisticsQuery) -> TokenStatistics:
        return await self._statistics(statistics.tokens, query)

    async def cost_statistics(self, query: StatisticsQuery) -> CostStatistics:
        return await self._statistics(statistics.costs, query)

    async def llm_statistics(self, query: StatisticsQuery) -> LLMStatistics:
        return await self._statistics(statistics.llm, query)

    async def _statistics(self, total: Callable[..., Awaitable[T]], query: StatisticsQuery) -> T:
        async def work(db: Statements) -> T:
            async with db.one_moment():
                return await total(db, query)

        return await self._read(work, behind=True)


async def _probe(db: Statements) -> Any:
    return await db.run(_PROBE)
