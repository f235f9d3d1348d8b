"""What a store does. One port, which every store keeps in full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import msgspec

from asynchistory.errors import InvalidQueryError
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
from asynchistory.storage.announcements import announcements_of
from asynchistory.storage.archives import Archives

if TYPE_CHECKING:
    from types import TracebackType

    from asynchistory.codec import Row
    from asynchistory.storage.calls import CallFacts


class Batch(msgspec.Struct, frozen=True, gc=False):
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


class Cut(NamedTuple):
    """Which records to take off the end of a session.

    One of ``to_seq`` (the last that stays) and ``newest`` (how many go) is given.
    ``keep``: hand out what was removed. ``epoch``: refuse unless it is the session's.
    """

    session_id: str
    to_seq: int | None = None
    newest: int | None = None
    keep: bool = False
    epoch: int | None = None
    idempotency_key: str | None = None
    digest: bytes = b""
    expected_seq: int | None = None


class ForkPlan(NamedTuple):
    """A session to be made from the first records of another.

    ``at_seq`` None is all of them. ``user_id`` None is the parent's owner.
    """

    session_id: str
    new_id: str
    at_seq: int | None
    epoch: int | None
    user_id: str | None
    title: str | None
    metadata: dict[str, JSON] | None
    expires_at: datetime | None


class Key(NamedTuple):
    """An idempotency key and the answer that it stands for."""

    key: str
    digest: bytes
    epoch: int
    first_seq: int
    last_seq: int
    removed: bytes | None = None


class Deleted(NamedTuple):
    """A session that was deleted, and how many records it held itself."""

    session_id: str
    records: int


def stays(cut: Cut, seq: int) -> int:
    """How many of ``seq`` records the cut leaves."""
    left = seq - cut.newest if cut.newest is not None else cut.to_seq or 0
    return min(max(left, 0), seq)


def fork_seq(plan: ForkPlan, seq: int) -> int:
    """How many of the parent's ``seq`` records the fork begins with.

    Raises:
        InvalidQueryError: it asks for more.
    """
    if plan.at_seq is None:
        return seq
    if plan.at_seq > seq:
        raise InvalidQueryError(
            f"session {plan.session_id!r} stands at seq {seq}; fork it there or before"
        )
    return plan.at_seq


class Storage(Archives, ABC):
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
    async def replace(self, batch: Batch) -> Appended:
        """Put a batch, which may be empty, in the place of all records of a session.

        The session, created if it is missing, begins a new epoch. Atomic and
        durable as :meth:`append` is, and raises the same.
        """

    @abstractmethod
    async def truncate(self, cut: Cut) -> Truncated:
        """Take records off the end of a session, which begins a new epoch if any go.

        Raises:
            SessionNotFoundError: there is no such session.
            EpochChangedError: ``epoch`` is not the session's.
            IdempotencyMismatchError: the key was used for something else.
            SequenceConflictError: ``expected_seq`` is not the newest seq.
        """

    @abstractmethod
    async def version(self, session_id: str) -> Version | None:
        """Where the session stands, None if there is none. Cheap, and always current."""

    async def changed(self, session_id: str, since: Version | None) -> None:
        """Return when the session does not, or no longer, stand at ``since``.

        What managers of this process write ends the wait at once, and what
        others write within 50 ms. A store that is told of changes overrides this.
        """
        await announcements_of(self).changed(session_id, since, self.version)

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
    async def search(self, query: SearchQuery) -> list[SearchHit]:
        """What a (validated) search finds.

        Each of its words occurs in a hit's text, case-folded, anywhere. A record
        that sessions share is found once in a search of the whole store, and in
        each of them in a search of one session.
        """

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
        metadata: dict[str, JSON] | None,
        order: Literal["updated", "created"],
        limit: int,
        after: str | None,
    ) -> SessionPage:
        """Sessions, those of ``user_id`` if given; ``after`` is a page's ``next``.

        ``metadata``: only those whose metadata has these names with these values.

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
        expires_at: datetime | Literal["never"] | None,
    ) -> Session:
        """Change what is not None; returns the session as it is then.

        Raises:
            SessionNotFoundError: there is no such session.
        """

    @abstractmethod
    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with its records, keys and statistics; False if there is none."""

    @abstractmethod
    async def fork(self, plan: ForkPlan) -> Session:
        """Make a session of the first records of another, and return it.

        Within one owner they are shared: it takes constant time. Later changes
        to either session do not alter the other.

        Raises:
            SessionNotFoundError: there is no such parent.
            SessionExistsError: the new id is taken.
            InvalidQueryError: ``at_seq`` is past the parent's newest record.
            EpochChangedError: ``epoch`` is not the parent's.
        """

    @abstractmethod
    async def prune(
        self, *, now: datetime, older_than: datetime | None, most: int
    ) -> list[Deleted]:
        """Delete up to ``most`` sessions that are expired or last written before ``older_than``.

        In one transaction; [] when there are none left.
        """

    @abstractmethod
    async def erase_user(self, user_id: str, *, most: int) -> list[Deleted]:
        """Delete up to ``most`` sessions of a user; [] when there are none left."""

    @abstractmethod
    async def scrub(self) -> None:
        """Remove what is left of deleted content in the store's files.

        Raises:
            BusyError: readers elsewhere keep it from being removed; try again.
        """

    @abstractmethod
    async def health(self) -> StoreHealth:
        """Try a small write, and a read. What fails is told, not raised."""

    @abstractmethod
    def stats(self) -> StoreStatistics:
        """How busy the store is. Needs no event loop."""

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
