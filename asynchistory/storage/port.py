"""What a store does. One port, which every store keeps in full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from asynchistory.queries import (
    Appended,
    CostStatistics,
    HistoryPage,
    HistoryQuery,
    LLMStatistics,
    Session,
    SessionPage,
    SessionSummary,
    StatisticsQuery,
    StoreCounts,
    Tail,
    TokenStatistics,
    Version,
)
from asynchistory.records import JSON, StoredRecord

if TYPE_CHECKING:
    from types import TracebackType

    from asynchistory.codec import Row
    from asynchistory.storage.calls import CallFacts


class Batch(NamedTuple):
    """Validated records of one append, as a store takes them.

    ``calls`` are the facts about model calls in these records (see
    :mod:`asynchistory.storage.calls`).
    ``digest`` is given with an idempotency key and stands for the content.
    """

    session_id: str
    rows: Sequence[Row]
    calls: Sequence[CallFacts] = ()
    idempotency_key: str | None = None
    digest: bytes = b""
    expected_seq: int | None = None


class Storage(ABC):
    """A durable home for sessions, usable from any event loop and thread at once.

    A store is opened by ``async with`` (or :meth:`open`) and counts its
    openers; the last :meth:`aclose` closes it. Every method raises
    :class:`~asynchistory.NotOpenError` outside of that, and
    :class:`~asynchistory.StorageError` where the store itself fails. Methods
    that write complete or are cancelled, never both: one that returned has
    stored its work durably, one that raised a cancellation has stored nothing.
    """

    #: The URL that opens this store again, without secrets.
    url: str

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def open(self) -> None:
        """Open the store, or count one more opener if it is open.

        Raises:
            StorageUnavailableError: it cannot be opened.
            ForeignDatabaseError: it is not a database of ours.
            NewerSchemaError: a newer version wrote it.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Count one opener less; the last one waits for writes under way, then closes."""

    # -- records

    @abstractmethod
    async def append(self, batch: Batch) -> Appended:
        """Store a batch at the end of its session, which is created if it is missing.

        The batch is contiguous and atomic, and durable when this returns. An
        idempotency key is looked at before ``expected_seq``.

        Raises:
            IdempotencyMismatchError: the key was used with other content.
            SequenceConflictError: ``expected_seq`` is not the newest seq.
            BusyError: another process held the write lock past the deadline.
        """

    @abstractmethod
    async def version(self, session_id: str) -> Version | None:
        """Where the session stands, None if there is none. Cheap, and always current."""

    @abstractmethod
    async def tail(self, session_id: str, limit: int) -> Tail | None:
        """The newest ``limit`` records as of one moment, None if there is no such session."""

    @abstractmethod
    async def read(self, query: HistoryQuery) -> HistoryPage:
        """The records that a (validated) query asks for.

        Raises:
            SessionNotFoundError: there is no such session.
            EpochChangedError: the query's cursor is from an epoch that has passed.
            CorruptRecordError: a record is damaged and the query is ``strict``.
        """

    @abstractmethod
    async def search(
        self, text: str, *, session_id: str | None, user_id: str | None, limit: int
    ) -> Sequence[StoredRecord]:
        """Records in whose text each term of ``text`` occurs, case-folded; newest first."""

    # -- sessions

    @abstractmethod
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
        """Create a session and return it; an existing one is returned as it is if ``exist_ok``.

        Raises:
            SessionExistsError: it exists and ``exist_ok`` is false.
        """

    @abstractmethod
    async def get_session(self, session_id: str) -> Session | None:
        """The session, None if there is none."""

    @abstractmethod
    async def list_sessions(
        self,
        *,
        user_id: str | None,
        order: Literal["updated", "created"],
        limit: int,
        after: str | None,
    ) -> SessionPage:
        """Sessions, those of ``user_id`` if given; ``after`` is a page's ``next``.

        ``updated``: the last written first. ``created``: the first made first.
        """

    @abstractmethod
    async def update_session(
        self,
        session_id: str,
        *,
        title: str | None,
        metadata: dict[str, JSON] | None,
        user_id: str | None,
    ) -> Session:
        """Change what is not None; returns the session as it is then.

        Raises:
            SessionNotFoundError: there is no such session.
        """

    @abstractmethod
    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with its records, keys and statistics; False if there is none."""

    # -- counting

    @abstractmethod
    async def summary(self, session_id: str) -> SessionSummary | None:
        """The session and what is in it, None if there is none."""

    @abstractmethod
    async def counts(self) -> StoreCounts:
        """How much the store holds."""

    @abstractmethod
    async def token_statistics(self, query: StatisticsQuery) -> TokenStatistics:
        """Tokens over the calls that the query selects."""

    @abstractmethod
    async def cost_statistics(self, query: StatisticsQuery) -> CostStatistics:
        """Costs over the calls that the query selects, per currency."""

    @abstractmethod
    async def llm_statistics(self, query: StatisticsQuery) -> LLMStatistics:
        """Requests, responses and times over the calls that the query selects."""
