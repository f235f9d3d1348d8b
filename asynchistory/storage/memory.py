"""The memory store: every promise of the port but durability. For tests and throw-away work."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, Literal, TypeVar

from msgspec.structs import replace

from asynchistory._ids import now_us
from asynchistory.codec import TYPE_CODES, Row, from_microseconds, from_units, row_record
from asynchistory.errors import (
    IdempotencyMismatchError,
    NotOpenError,
    SequenceConflictError,
    SessionExistsError,
    SessionNotFoundError,
)
from asynchistory.queries import (
    Amounts,
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
from asynchistory.records import JSON, Message, StoredRecord
from asynchistory.runs import checkpoint_if_cancelled
from asynchistory.storage.calls import USAGE_FIELDS, CallFacts, day_name, day_number, merge
from asynchistory.storage.cursors import make_cursor, parse_cursor
from asynchistory.storage.port import Batch, Storage
from asynchistory.storage.select import select
from asynchistory.storage.text import matches, search_terms

S = TypeVar("S", TokenStatistics, CostStatistics, LLMStatistics)

_TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}


class _Home:
    """One session and all that belongs to it."""

    def __init__(self, session_id: str, number: int, epoch: int) -> None:
        now = from_microseconds(now_us())
        self.number = number
        self.session = Session(id=session_id, created_at=now, updated_at=now, epoch=epoch)
        self.rows: list[tuple[int, Row]] = []  # each with its place among all rows of the store
        self.calls: dict[str, CallFacts] = {}
        self.keys: dict[str, tuple[bytes, Appended]] = {}

    def records(self, start: int = 0) -> list[StoredRecord]:
        return [self.record(seq) for seq in range(max(start, 0) + 1, len(self.rows) + 1)]

    def record(self, seq: int) -> StoredRecord:
        return row_record(self.session.id, seq, self.rows[seq - 1][1])


class MemoryStorage(Storage):
    """Sessions in this process's memory, shared by all its event loops and threads.

    Its contents live as long as the object; closing it loses nothing.
    """

    def __init__(self, name: str = "") -> None:
        self.url: str = f"memory://{name}"
        self._lock = threading.Lock()
        self._openers = 0
        self._homes: dict[str, _Home] = {}
        self._made = 0
        self._written = 0

    async def open(self) -> None:
        with self._lock:
            self._openers += 1

    async def aclose(self) -> None:
        with self._lock:
            self._openers = max(0, self._openers - 1)

    async def _enter(self) -> None:
        if not self._openers:
            raise NotOpenError(f"{self.url} is not open; use `async with` around its use")
        # Before anything is done: from here on each method runs to its end.
        await checkpoint_if_cancelled()

    # -- records

    async def append(self, batch: Batch) -> Appended:
        await self._enter()
        with self._lock:
            return self._append(batch)

    def _append(self, batch: Batch) -> Appended:
        home = self._homes.get(batch.session_id)
        if home is not None and batch.idempotency_key in home.keys:
            digest, earlier = home.keys[batch.idempotency_key or ""]
            if digest != batch.digest:
                raise IdempotencyMismatchError(batch.session_id, batch.idempotency_key or "")
            return replace(earlier, replayed=True)
        actual = 0 if home is None else home.session.seq
        if batch.expected_seq is not None and batch.expected_seq != actual:
            raise SequenceConflictError(batch.session_id, batch.expected_seq, actual)
        home = home or self._make(batch.session_id)
        for row in batch.rows:
            self._written += 1
            home.rows.append((self._written, row))
        for facts in batch.calls:
            known = home.calls.get(facts.request)
            home.calls[facts.request] = facts if known is None else merge(known, facts)
        self._change(home, seq=len(home.rows))
        result = Appended(
            session_id=batch.session_id,
            epoch=home.session.epoch,
            first_seq=actual + 1,
            last_seq=home.session.seq,
        )
        if batch.idempotency_key is not None:
            home.keys[batch.idempotency_key] = (batch.digest, result)
        return result

    async def version(self, session_id: str) -> Version | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            return None if home is None else Version(home.session.epoch, home.session.seq)

    async def tail(self, session_id: str, limit: int) -> Tail | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                return None
            version = Version(home.session.epoch, home.session.seq)
            return Tail(version, tuple(home.records(version.seq - limit)))

    async def read(self, query: HistoryQuery) -> HistoryPage:
        await self._enter()
        with self._lock:
            home = self._homes.get(query.session_id)
            if home is None:
                raise SessionNotFoundError(query.session_id)
            return select(home.records(), query, home.session.epoch)

    async def search(
        self, text: str, *, session_id: str | None, user_id: str | None, limit: int
    ) -> Sequence[StoredRecord]:
        terms = search_terms(text)
        await self._enter()
        with self._lock:
            places = [
                (place, home, seq)
                for home in self._selected(session_id, user_id)
                for seq, (place, _row) in enumerate(home.rows, 1)
            ]
            places.sort(key=lambda entry: entry[0], reverse=True)
            records = (home.record(seq) for _place, home, seq in places)
            found = (record for record in records if matches(record, terms))
            return [record for record, _ in zip(found, range(limit), strict=False)]

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
                self._change(
                    home, user_id=user_id, title=title, metadata=metadata, expires_at=expires_at
                )
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
        order: Literal["updated", "created"],
        limit: int,
        after: str | None,
    ) -> SessionPage:
        await self._enter()
        newest = order == "updated"
        with self._lock:
            keyed = [(_moment(home, order), home) for home in self._selected(None, user_id)]
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
    ) -> Session:
        await self._enter()
        given = {"title": title, "metadata": metadata, "user_id": user_id}
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                raise SessionNotFoundError(session_id)
            self._change(
                home, **{name: value for name, value in given.items() if value is not None}
            )
            return deepcopy(home.session)

    async def delete_session(self, session_id: str) -> bool:
        await self._enter()
        with self._lock:
            return self._homes.pop(session_id, None) is not None

    # -- counting

    async def summary(self, session_id: str) -> SessionSummary | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                return None
            return SessionSummary(session=deepcopy(home.session), **_count([home]))

    async def counts(self) -> StoreCounts:
        await self._enter()
        with self._lock:
            homes = list(self._homes.values())
            return StoreCounts(sessions=len(homes), **_count(homes))

    async def token_statistics(self, query: StatisticsQuery) -> TokenStatistics:
        return await self._statistics(query, _tokens)

    async def cost_statistics(self, query: StatisticsQuery) -> CostStatistics:
        return await self._statistics(query, _costs)

    async def llm_statistics(self, query: StatisticsQuery) -> LLMStatistics:
        return await self._statistics(query, _llm)

    # -- steps, under the lock

    def _make(self, session_id: str) -> _Home:
        self._made += 1
        home = self._homes[session_id] = _Home(session_id, self._made, self._made)
        return home

    def _change(self, home: _Home, **fields: Any) -> None:
        now = from_microseconds(now_us())
        home.session = replace(home.session, updated_at=now, **deepcopy(fields))

    def _selected(self, session_id: str | None, user_id: str | None) -> list[_Home]:
        return [
            home
            for home in self._homes.values()
            if session_id in (None, home.session.id) and user_id in (None, home.session.user_id)
        ]

    async def _statistics(self, query: StatisticsQuery, total: Callable[[list[CallFacts]], S]) -> S:
        await self._enter()
        since = day_number(query.since) if query.since else None
        until = day_number(query.until) if query.until else None
        groups: dict[str, list[CallFacts]] = {}
        everything: list[CallFacts] = []
        with self._lock:
            for home in self._selected(query.session_id, query.user_id):
                for call in home.calls.values():
                    early = since is not None and call.day < since
                    late = until is not None and call.day > until
                    if early or late or query.model not in (None, call.model):
                        continue
                    everything.append(call)
                    if query.group_by:
                        groups.setdefault(_key(query.group_by, home, call), []).append(call)
        result = total(everything)
        return replace(result, groups={key: total(groups[key]) for key in sorted(groups)})


def _moment(home: _Home, order: str) -> tuple[int, int]:
    moment = home.session.updated_at if order == "updated" else home.session.created_at
    return round(moment.timestamp() * 1_000_000), home.number


def _key(group_by: str, home: _Home, call: CallFacts) -> str:
    if group_by == "day":
        return day_name(call.day)
    if group_by in ("model", "provider"):
        return str(getattr(call, group_by))
    return home.session.id if group_by == "session" else home.session.user_id or ""


def _count(homes: Iterable[_Home]) -> dict[str, Any]:
    records = [record for home in homes for record in home.records()]
    messages = [record for record in records if isinstance(record, Message)]
    types = Counter(row.type for home in homes for _, row in home.rows)
    return {
        "records": len(records),
        "record_types": {_TYPE_NAMES[code]: types[code] for code in sorted(types)},
        "roles": dict(sorted(Counter(message.role for message in messages).items())),
        "tool_calls": sum(len(message.tool_calls) for message in messages),
        "tool_results": sum(len(message.tool_results) for message in messages),
    }


def _tokens(calls: list[CallFacts]) -> TokenStatistics:
    known = [call for call in calls if call.usage_rank]
    sums: dict[str, Any] = {
        name: sum(getattr(call, name) or 0 for call in known) for name in USAGE_FIELDS
    }
    return TokenStatistics(calls=len(known), unknown_calls=len(calls) - len(known), **sums)


def _costs(calls: list[CallFacts]) -> CostStatistics:
    known = sum(call.total_cost is not None for call in calls)
    sums: dict[str, list[int | None]] = {}
    for call in calls:
        if call.currency is not None:
            units = sums.setdefault(call.currency, [None, None, None])
            costs = (call.input_cost, call.output_cost, call.total_cost)
            for index, cost in enumerate(costs):
                if cost is not None:
                    units[index] = (units[index] or 0) + cost
    amounts = {
        currency: Amounts(
            input_cost=from_units(units[0]),
            output_cost=from_units(units[1]),
            total_cost=from_units(units[2]),
        )
        for currency, units in sorted(sums.items())
    }
    return CostStatistics(calls=known, unknown_calls=len(calls) - known, currencies=amounts)


def _llm(calls: list[CallFacts]) -> LLMStatistics:
    times = [call.response_us for call in calls if call.response_us is not None]
    first = [call.first_token_us for call in calls if call.first_token_us is not None]
    reasons = Counter(call.finish_reason for call in calls if call.finish_reason is not None)
    return LLMStatistics(
        requests=sum(call.requested for call in calls),
        responses=sum(call.responded for call in calls),
        mean_response_time=sum(times) / len(times) / 1e6 if times else None,
        max_response_time=max(times) / 1e6 if times else None,
        mean_time_to_first_token=sum(first) / len(first) / 1e6 if first else None,
        finish_reasons=dict(sorted(reasons.items())),
    )
