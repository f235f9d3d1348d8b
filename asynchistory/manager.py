"""AsyncHistoryManager: durable history that is awaited, on asyncio and on trio."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal, Self, TypedDict, Unpack
from uuid import uuid4

from asynchistory.cache.tail import CacheStatistics, Level, TailCache, tails_of
from asynchistory.checks import (
    check_expected_seq,
    check_level,
    check_limit,
    check_order,
    check_query,
    check_session_id,
    check_statistics,
    check_text_id,
)
from asynchistory.codec import (
    Row,
    digest,
    encode_json,
    encode_record,
    row_record,
    to_microseconds,
)
from asynchistory.errors import ConflictError, InvalidRecordError, SessionNotFoundError
from asynchistory.queries import (
    Appended,
    CostStatistics,
    GroupBy,
    HistoryPage,
    HistoryQuery,
    LLMStatistics,
    Session,
    SessionPage,
    SessionSummary,
    StatisticsQuery,
    StoreCounts,
    TokenStatistics,
    Version,
)
from asynchistory.recording import Recording
from asynchistory.records import (
    JSON,
    AnyRecord,
    StoredRecord,
)
from asynchistory.storage.calls import call_facts
from asynchistory.storage.port import Batch, Storage


class StatisticsOptions(TypedDict, total=False):
    """Over which calls statistics are made; see :class:`StatisticsQuery`."""

    user_id: str | None
    model: str | None
    since: str | None
    until: str | None
    group_by: GroupBy | None


class AsyncHistoryManager(Recording):
    """The history of every conversation in one store.

    A manager is a handle: it can be used from any number of asyncio and trio
    event loops and threads at once, and several managers over one store share
    its cache. Nothing is opened before ``async with``::

        async with AsyncHistoryManager(storage) as history:
            await history.record_message("chat-1", "user", "Hello!")
            records = await history.last("chat-1", 20)

    Args:
        storage: where records are kept; see :func:`asynchistory.open_history`.
        cache: the in-process cache; the one shared by the store's managers if left out.
        level: how current reads are unless they say otherwise; see :data:`Level`.
    """

    def __init__(
        self, storage: Storage, cache: TailCache | None = None, *, level: Level = "validated"
    ) -> None:
        self.storage: Storage = storage
        self.cache: TailCache = tails_of(storage) if cache is None else cache
        self.cache.bind(storage)
        check_level(level)
        self.level: Level = level

    async def __aenter__(self) -> Self:
        await self.storage.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.storage.aclose()

    # -- writing

    async def append(
        self,
        session_id: str,
        *records: AnyRecord,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        """Store records at the end of a session, which is created if it is missing.

        They are contiguous, all of them or none, and on disk when this returns.
        If it raises a cancellation, none is stored.

        Args:
            session_id: 1 to 512 bytes of UTF-8.
            records: one or more records.
            idempotency_key: the same key and content is stored once, however
                often it is tried. A key belongs to its session.
            expected_seq: refuse unless this is the session's newest seq.

        Raises:
            InvalidRecordError: a record is malformed; none is stored.
            IdempotencyMismatchError: the key was used with other content.
            SequenceConflictError: ``expected_seq`` did not hold.
            StorageError: the store failed.
        """
        appended, _ = await self._store(session_id, records, idempotency_key, expected_seq)
        return appended

    async def _store(
        self,
        session_id: str,
        records: Sequence[AnyRecord],
        idempotency_key: str | None,
        expected_seq: int | None,
    ) -> tuple[Appended, list[Row]]:
        check_session_id(session_id)
        check_text_id(idempotency_key, "an idempotency key")
        check_expected_seq(expected_seq)
        if not records:
            raise InvalidRecordError("append needs at least one record")
        rows = [encode_record(record) for record in records]
        batch = Batch(
            session_id,
            rows,
            call_facts(records, rows),
            idempotency_key,
            b"" if idempotency_key is None else digest("append", rows),
            expected_seq,
        )
        try:
            appended = await self.storage.append(batch)
        except ConflictError:
            raise
        except BaseException:
            # Whatever ended the wait, the batch may be stored (or an outcome unknown).
            self.cache.drop(session_id)
            raise
        if not appended.replayed:
            self.cache.wrote(
                session_id,
                Version(appended.epoch, appended.last_seq),
                lambda: [
                    row_record(session_id, seq, row)
                    for seq, row in enumerate(rows, appended.first_seq)
                ],
            )
        return appended, rows

    async def _at(self, session_id: str, appended: Appended) -> StoredRecord | None:
        """The record that an earlier call stored, if it is still there."""
        query = HistoryQuery(session_id, offset=appended.first_seq - 1, limit=1)
        page = await self.storage.read(query)
        return page.records[0] if page.records else None

    # -- reading

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

    def _level(self, level: Level | None) -> Level:
        if level is None:
            return self.level
        check_level(level)
        return level

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

    # -- sessions

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        expires_at: datetime | None = None,
        exist_ok: bool = False,
    ) -> Session:
        """Create a session; without an id it gets one.

        Raises:
            SessionExistsError: it exists and ``exist_ok`` is false.
        """
        session_id = uuid4().hex if session_id is None else session_id
        check_session_id(session_id)
        self._check_fields(user_id, title, metadata)
        if expires_at is not None:
            to_microseconds(expires_at)
        return await self.storage.create_session(
            session_id,
            user_id=user_id,
            title=title,
            metadata=metadata or {},
            expires_at=expires_at,
            exist_ok=exist_ok,
        )

    async def get_session(self, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFoundError: there is none with this id.
        """
        check_session_id(session_id)
        session = await self.storage.get_session(session_id)
        if session is None:
            raise SessionNotFoundError(session_id)
        return session

    async def list_sessions(
        self,
        *,
        user_id: str | None = None,
        order: Literal["updated", "created"] = "updated",
        limit: int = 100,
        after: str | None = None,
    ) -> SessionPage:
        """Sessions, a page of them.

        Args:
            user_id: only those of this user.
            order: ``updated``: the last written first; ``created``: the first made first.
            limit: at most this many.
            after: the page's ``next`` to go on with.
        """
        check_text_id(user_id, "a user id")
        check_limit(limit)
        check_order(order)
        return await self.storage.list_sessions(
            user_id=user_id, order=order, limit=limit, after=after
        )

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        user_id: str | None = None,
    ) -> Session:
        """Change a session's title, metadata (as a whole) or owner; None leaves it.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        self._check_fields(user_id, title, metadata)
        return await self.storage.update_session(
            session_id, title=title, metadata=metadata, user_id=user_id
        )

    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with everything in it. False if there was none."""
        check_session_id(session_id)
        try:
            return await self.storage.delete_session(session_id)
        finally:
            self.cache.drop(session_id)

    def _check_fields(
        self, user_id: str | None, title: str | None, metadata: dict[str, JSON] | None
    ) -> None:
        check_text_id(user_id, "a user id")
        encode_json([title, metadata], "a session's title and metadata")
        if not isinstance(title, (str, type(None))) or not isinstance(metadata, (dict, type(None))):
            raise InvalidRecordError("a session's title is text and its metadata an object")

    # -- counting

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
