"""What is asked of a history and what it answers: sessions, pages, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from asynchistory.records import JSON, CorruptRecord, Message, StoredRecord, ToolCall

#: The most records that one page may hold.
MAX_PAGE = 10_000

GroupBy: TypeAlias = Literal["model", "provider", "day", "session", "user"]
SearchOrder: TypeAlias = Literal["newest", "rank"]


class Version(NamedTuple):
    """Where a session stands. Any change moves it; a session made again has another epoch."""

    epoch: int
    seq: int


class Session(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """One conversation.

    Attributes:
        id: 1 to 512 bytes of UTF-8.
        user_id: its owner, or None.
        title: for people.
        metadata: the application's own JSON.
        created_at: when it was made.
        updated_at: when something was last written to it.
        seq: the seq of its newest record, 0 for none.
        epoch: changes when records are removed or rewritten, never comes back.
        forked_from: the id of the session that its first ``fork_seq`` records come from.
        fork_seq: how many records it shares with it.
        expires_at: when it may be pruned, or None.
    """

    id: str
    user_id: str | None = None
    title: str | None = None
    metadata: dict[str, JSON] = {}
    created_at: datetime
    updated_at: datetime
    seq: int = 0
    epoch: int = 0
    forked_from: str | None = None
    fork_seq: int = 0
    expires_at: datetime | None = None


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some sessions. ``next`` is the cursor of the page after it, None at the end."""

    sessions: tuple[Session, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[Session]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)


class HistoryQuery(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """Which records of one session to read. Pages are always in ``seq`` order.

    Attributes:
        session_id: the session.
        start_time: at or after this time (with a time zone).
        end_time: before this time (with a time zone).
        record_types: only these, such as ``("message", "tool_call")``; None for all.
        model: only records of calls to this model.
        limit: at most this many records, 0 to 10,000.
        offset: skip this many first.
        newest: count ``offset`` and ``limit`` from the newest record backwards
            instead of from the oldest forwards.
        before: a page's ``next``: the records before it (implies ``newest``).
        after: a page's ``next``: the records after it.
        with_total: also count all records that match.
        strict: raise :class:`~asynchistory.CorruptRecordError` at a damaged record
            instead of handing out a :class:`~asynchistory.CorruptRecord` in its place.
    """

    session_id: str
    start_time: datetime | None = None
    end_time: datetime | None = None
    record_types: tuple[str, ...] | None = None
    model: str | None = None
    limit: int = 100
    offset: int = 0
    newest: bool = False
    before: str | None = None
    after: str | None = None
    with_total: bool = False
    strict: bool = False


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Records in ``seq`` order.

    ``total`` counts all that match, if that was asked for. ``next`` is the
    cursor to go on with, in the direction of the query; None at the end.
    """

    records: tuple[StoredRecord, ...]
    total: int | None = None
    next: str | None = None

    def __iter__(self) -> Iterator[StoredRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


class SearchQuery(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """Which messages and tool calls to find.

    Attributes:
        text: words, each of which occurs in what is found; anywhere, inside
            other words too, in any case and any script.
        session_id: only in this session, and what it shares with the one it was forked from.
        user_id: only in this user's sessions.
        record_types: only these, ``("message",)`` or ``("tool_call",)``; None for both.
        role: only messages of this role.
        start_time: at or after this time (with a time zone).
        end_time: before this time (with a time zone).
        order: ``newest`` first; or by ``rank``, where the words occur most for the length first.
        limit: at most this many hits, 0 to 10,000.
    """

    text: str
    session_id: str | None = None
    user_id: str | None = None
    record_types: tuple[str, ...] | None = None
    role: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    order: SearchOrder = "newest"
    limit: int = 20


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a search found.

    ``snippet`` is the text around the first match, in one line, with ``…`` where
    it is cut. ``highlights`` are the places in it, from (start) up to (end), that
    match a word of the search.
    """

    record: Message | ToolCall
    snippet: str
    highlights: tuple[tuple[int, int], ...]


class Tail(msgspec.Struct, frozen=True):
    """A session's newest records, without a gap, as of one moment."""

    version: Version
    records: tuple[StoredRecord, ...]


class Appended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a batch stands. ``replayed``: an earlier call with its idempotency key stored it."""

    session_id: str
    epoch: int
    first_seq: int
    last_seq: int
    replayed: bool = False


class Truncated(msgspec.Struct, frozen=True, kw_only=True):
    """What a truncate or a pop left, and what it took.

    Attributes:
        session_id: the session.
        epoch: its new epoch; the one it had if nothing was removed.
        seq: its newest seq, 0 for none.
        removed: how many records are gone.
        records: those records, of ``pop`` only.
        replayed: an earlier call with this idempotency key did it.
    """

    session_id: str
    epoch: int
    seq: int
    removed: int
    records: tuple[StoredRecord, ...] = ()
    replayed: bool = False


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Whole sessions that are gone, with their records, keys and statistics."""

    sessions: int = 0
    records: int = 0


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did.

    Attributes:
        sessions: sessions that it added.
        records: the records in them.
        skipped: sessions that were there already, and were left as they are.
        damaged: records that were damaged when they were exported, and are left out.
    """

    sessions: int = 0
    records: int = 0
    skipped: int = 0
    damaged: int = 0


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a whole store found.

    Attributes:
        sessions: how many sessions were checked.
        records: how many records; those that forks share count once.
        damaged: the records that cannot be read, each once, under the session that
            keeps it; at most 1,000.
        problems: what else is wrong, in short texts that carry no content; at most 1,000.
    """

    sessions: int
    records: int
    damaged: tuple[CorruptRecord, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.problems


class SessionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A session and the number of its records by type, and of its messages by role."""

    session: Session
    records: int
    record_types: dict[str, int]
    roles: dict[str, int]
    tool_calls: int
    tool_results: int


class StoreCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds, counted by the database.

    ``tool_calls`` and ``tool_results`` count those inside messages.
    """

    sessions: int
    records: int
    record_types: dict[str, int]
    roles: dict[str, int]
    tool_calls: int
    tool_results: int


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a store is. Counts are of this process, since it opened the store.

    Attributes:
        queued: writes that wait for the writer.
        waiting: callers that wait for room in the queue.
        commits: transactions that were committed.
        writes: writes in them; several callers share one.
        largest_group: the most writes that one had.
        last_commit: seconds that the last one took to reach the disk, None before the first.
        mean_commit: the same, their mean.
        longest_commit: the same, the longest.
    """

    queued: int = 0
    waiting: int = 0
    commits: int = 0
    writes: int = 0
    largest_group: int = 0
    last_commit: float | None = None
    mean_commit: float | None = None
    longest_commit: float | None = None


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a store can be written and read.

    Attributes:
        url: the store, without secrets.
        problem: what failed, None if nothing did.
        write_time: seconds that a small write took, to the disk and with its wait in
            the queue. None if it failed.
        read_time: seconds that a read took, None if it failed or was not tried.
        file_bytes: the size of the database, None if it was not read.
        wal_bytes: the size of the write-ahead log beside it.
        statistics: how busy the store is.
    """

    url: str
    problem: str | None = None
    write_time: float | None = None
    read_time: float | None = None
    file_bytes: int | None = None
    wal_bytes: int | None = None
    statistics: StoreStatistics = StoreStatistics()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.problem is None


class TokenStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens summed over calls, each call once.

    ``calls`` counts those with known usage and ``unknown_calls`` the others.
    ``groups`` holds the same per model, day, ... as asked for.
    """

    calls: int = 0
    unknown_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    groups: dict[str, TokenStatistics] = {}


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """Money in one currency. None where no call says it: unknown is not 0."""

    input_cost: Decimal | None = None
    output_cost: Decimal | None = None
    total_cost: Decimal | None = None


class CostStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Costs summed over calls, each call once, per currency.

    ``calls`` counts those with a known total and ``unknown_calls`` the others.
    """

    calls: int = 0
    unknown_calls: int = 0
    currencies: dict[str, Amounts] = {}
    groups: dict[str, CostStatistics] = {}


class LLMStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Model calls. Times are in seconds, over the calls that report them; None if none does.

    A call that failed (``finish_reason`` is ``error``) is a request without a response.
    """

    requests: int = 0
    responses: int = 0
    mean_response_time: float | None = None
    max_response_time: float | None = None
    mean_time_to_first_token: float | None = None
    finish_reasons: dict[str, int] = {}
    groups: dict[str, LLMStatistics] = {}


class StatisticsQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Over which calls statistics are made.

    Attributes:
        session_id: only this session.
        user_id: only this user's sessions.
        model: only this model.
        since: calls of this day and later (``YYYY-MM-DD``, UTC).
        until: calls of this day and earlier.
        group_by: what ``groups`` of the answer is keyed by, or None.
    """

    session_id: str | None = None
    user_id: str | None = None
    model: str | None = None
    since: str | None = None
    until: str | None = None
    group_by: GroupBy | None = "model"
