"""The SQLite store: the port, over one engine a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, TypeVarTuple

import apsw
from anyio.lowlevel import checkpoint

from asynchistory.codec import Row
from asynchistory.errors import BusyError, ConfigurationError, NotOpenError, StorageError
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
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.calls import CallFacts
from asynchistory.storage.port import Batch, Cut, Deleted, ForkPlan, Key, Storage
from asynchistory.storage.sqlite import (
    backup,
    changes,
    reads,
    restore,
    search_index,
    statistics,
    verify,
)
from asynchistory.storage.sqlite.engine import Engine
from asynchistory.storage.sqlite.indexing import discarded
from asynchistory.storage.sqlite.monitor import probe
from asynchistory.storage.sqlite.search import search
from asynchistory.storage.sqlite.stopping import Stop
from asynchistory.storage.sqlite.writes import WriteGroup

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SQLiteStorage(Storage):
    """Sessions in one SQLite file, for any number of event loops, threads and processes.

    Args:
        path: the file; it and its folder are created when missing.
        durability: ``full``: a returned write survives a power cut. ``relaxed``:
            it survives the end of the process, and a power cut may take the
            last ones; the file stays whole.
        lock_timeout: seconds to wait for another process's write lock.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Literal["full", "relaxed"] = "full",
        lock_timeout: float = 30.0,
    ) -> None:
        if durability not in ("full", "relaxed"):
            raise ConfigurationError("durability must be 'full' or 'relaxed'")
        self.path: Path = Path(path).expanduser().absolute()
        self.durability: Literal["full", "relaxed"] = durability
        self.lock_timeout: float = lock_timeout
        self.url: str = f"sqlite:///{self.path}"
        self._lock = own_lock(self, "_lock")
        self._openers = 0
        self._engine: Engine | None = None

    async def open(self) -> None:
        with self._lock:
            self._openers += 1
            if self._engine is None:
                self._engine = Engine(
                    self.path, durability=self.durability, lock_timeout=self.lock_timeout
                )
            engine = self._engine
        try:
            await engine.ready()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        with self._lock:
            if self._openers > 1 or self._engine is None:
                self._openers = max(0, self._openers - 1)
                return
            engine, self._engine, self._openers = self._engine, None, 0
        await engine.aclose()

    def _opened(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise NotOpenError(f"{self.path} is not open; use `async with` around its use")
        return engine

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._opened().read(work)

    async def _write(self, work: Callable[[WriteGroup, *Ts], T], *args: *Ts) -> T:
        return await self._opened().write(work, *args)

    # -- records

    def append(self, batch: Batch) -> Coroutine[Any, Any, Appended]:
        # Hands on the engine's coroutine: one frame less for each append to go through.
        return self._opened().write(WriteGroup.append, batch)

    async def replace(self, batch: Batch) -> Appended:
        return await self._write(changes.replace, batch)

    async def truncate(self, cut: Cut) -> Truncated:
        return await self._write(changes.truncate, cut)

    async def version(self, session_id: str) -> Version | None:
        rows = self._opened().glance(reads.VERSION, (session_id,))
        if rows is None:
            rows = await self._read(lambda db: db.execute(reads.VERSION, (session_id,)).fetchall())
        return Version(*rows[0]) if rows else None

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        engine = self._opened()
        engine.check()
        if limit <= reads.SHORT:
            # Others of the loop have their turn between two of these.
            await checkpoint()
            found = engine.glimpse(reads.SHORT_TAIL, (session_id, limit))
            tail = None if found is None else reads.short_tail(session_id, limit, found)
            if tail is not None:
                return tail
        return await self._read(partial(reads.tail, session_id=session_id, limit=limit))

    async def read(self, query: HistoryQuery) -> HistoryPage:
        return await self._read(partial(reads.page, query=query))

    async def search(self, query: SearchQuery) -> list[SearchHit]:
        found = await self._read(partial(search, query=query))
        self._opened().index()
        return found

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
            lambda group: group.create_session(
                session_id,
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
            lambda group: group.update_session(
                session_id,
                title=title,
                metadata=metadata,
                user_id=user_id,
                expires_at=expires_at,
            )
        )

    async def delete_session(self, session_id: str) -> bool:
        return await self._write(changes.delete, session_id)

    async def fork(self, plan: ForkPlan) -> Session:
        return await self._write(changes.fork, plan)

    async def prune(
        self, *, now: datetime, older_than: datetime | None, most: int
    ) -> list[Deleted]:
        where, values = changes.due(now, older_than)
        return await self._write(changes.delete_where, where, values, most)

    async def erase_user(self, user_id: str, *, most: int) -> list[Deleted]:
        return await self._write(changes.delete_where, "user_id = ?", [user_id], most)

    async def scrub(self) -> None:
        await self._opened().chore(self._scrub)

    def _scrub(self, db: apsw.Connection) -> None:
        # Deleted content is overwritten where it was. What moved from page to page as the file
        # grew has left traces behind, which only a new file is free of.
        try:
            while search_index.purge(db):  # each step a transaction of its own
                pass
        except apsw.Error as error:
            if not discarded(db, error):
                raise
        db.execute("PRAGMA temp_store=FILE")
        try:
            db.execute("VACUUM")
        finally:
            db.execute("PRAGMA temp_store=MEMORY")
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            raise BusyError(
                f"readers kept the write-ahead log of {self.path} from being emptied for "
                f"{self.lock_timeout:g} s; it still holds what was erased: call again"
            ) from None

    async def health(self) -> StoreHealth:
        engine = self._opened()
        write_time = read_time = problem = None
        sizes: tuple[int | None, int | None] = (None, None)
        try:
            start = time.perf_counter()
            await engine.write(WriteGroup.probe)
            written = time.perf_counter()
            write_time = written - start
            sizes = await engine.read(partial(probe, path=self.path))
            read_time = time.perf_counter() - written
        except StorageError as error:
            problem = str(error)
        return StoreHealth(
            url=self.url,
            problem=problem,
            write_time=write_time,
            read_time=read_time,
            file_bytes=sizes[0],
            wal_bytes=sizes[1],
            statistics=engine.statistics(),
        )

    def stats(self) -> StoreStatistics:
        return self._opened().statistics()

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
        return await self._write(restore.restore, session, rows, calls, keys)

    async def verify(self) -> Verification:
        stop = Stop()
        return await self._opened().read(partial(verify.verify, stop=stop), stop.withdraw)

    async def backup(self, path: Path, *, overwrite: bool) -> None:
        stop = Stop()
        await self._opened().read(
            lambda db: backup.backup(db, self.path, path, overwrite, stop), stop.withdraw
        )

    # -- counting

    async def summary(self, session_id: str) -> SessionSummary | None:
        return await self._read(partial(reads.summary, session_id=session_id))

    async def counts(self) -> StoreCounts:
        return await self._read(reads.counts)

    async def token_statistics(self, query: StatisticsQuery) -> TokenStatistics:
        return await self._read(partial(statistics.tokens, query=query))

    async def cost_statistics(self, query: StatisticsQuery) -> CostStatistics:
        return await self._read(partial(statistics.costs, query=query))

    async def llm_statistics(self, query: StatisticsQuery) -> LLMStatistics:
        return await self._read(partial(statistics.llm, query=query))
