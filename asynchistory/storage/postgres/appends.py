"""A group of appends: what it may hold, how it is sent, and what its answers mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from asynchistory.codec import TYPE_CODES, Row
from asynchistory.errors import (
    AsyncHistoryError,
    IdempotencyMismatchError,
    SequenceConflictError,
)
from asynchistory.queries import Appended
from asynchistory.storage.calls import CALL_TYPES, CallFacts, merge
from asynchistory.storage.port import Batch
from asynchistory.storage.postgres.arrays import blobs, integers, stored, texts

#: Appends, and bytes, that one statement takes: more would not be quicker, and hold locks longer.
MOST, MOST_BYTES = 512, 4 * 1024 * 1024
APPEND = f"SELECT * FROM append({', '.join(['%s'] * 20)})"
#: The quicker way of a group in which nothing has a key or an ``expected_seq``.
APPEND_PLAIN = f"SELECT * FROM append_plain({', '.join(['%s'] * 14)})"
INSERT_RECORDS = (
    "INSERT INTO records(sid, seq, ts, crc, type, tool_calls, tool_results, id, role, model, body) "
    "SELECT %s, %s + r.number, r.ts, r.crc, r.type, r.calls, r.results, r.id, r.role, r.model, "
    "r.body FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
    "r(number, type, ts, id, body, crc, role, model, calls, results)"
)

_MESSAGE = TYPE_CODES["message"]
#: What is counted of a message's parts, each in a smallint: a message that has more counts so many.
_COUNTED, _MOST_PARTS = ("tool_call", "tool_result"), 32767


class _Part(msgspec.Struct):
    type: str = ""


class _Sketch(msgspec.Struct):
    """Of a body, what has columns of its own."""

    role: str | None = None
    model: str | None = None
    parts: list[_Part] = []


_sketch = msgspec.json.Decoder(_Sketch).decode


class Group:
    """Batches that one statement can store.

    Each stands on what those before it in the group leave. For that to be told in
    one statement, only the first of a session may have an ``expected_seq``, and
    none a key, or a call, that is in the group already.
    """

    def __init__(self, *batches: Batch) -> None:
        self.batches: list[Batch] = []
        self._sizes: dict[str, int] = {}  # how many records each session gets
        self._plain = True
        self._keys: set[tuple[str, str]] = set()
        self._calls: set[tuple[str, str]] = set()
        self._bytes = 0
        for batch in batches:
            self.take(batch)

    def take(self, batch: Batch) -> bool:
        """Take a batch in; False if it has to wait for the next group."""
        name, key = batch.session_id, batch.idempotency_key
        size = sum(len(row.body) for row in batch.rows)
        calls = {(name, facts.request) for facts in batch.calls}
        full = len(self.batches) >= MOST or self._bytes + size > MOST_BYTES
        if self.batches and (
            full
            or (batch.expected_seq is not None and name in self._sizes)
            or (key is not None and (name, key) in self._keys)
            or not calls.isdisjoint(self._calls)
        ):
            return False
        self.batches.append(batch)
        self._sizes[name] = self._sizes.get(name, 0) + len(batch.rows)
        self._plain = self._plain and key is None and batch.expected_seq is None
        if key is not None:
            self._keys.add((name, key))
        self._calls |= calls
        self._bytes += size
        return True

    def statement(self) -> tuple[str, list[Any]]:
        """What stores them, and its parameters."""
        return (APPEND_PLAIN, self._plain_values()) if self._plain else (APPEND, self._values())

    def _plain_values(self) -> list[Any]:
        names = sorted(self._sizes)
        numbers = {name: number for number, name in enumerate(names, 1)}
        places: list[int] = []
        after: list[int] = []
        rows: list[Row] = []
        for batch, left in self._with_left():
            count = len(batch.rows)
            places += [numbers[batch.session_id]] * count
            after += range(left + count - 1, left - 1, -1)
            rows += batch.rows
        return [
            texts(names),
            integers([self._sizes[name] for name in names]),
            integers(places),
            integers(after),
            *row_arrays(rows),
            self._facts([numbers[batch.session_id] for batch in self.batches]),
        ]

    def _with_left(self) -> Iterator[tuple[Batch, int]]:
        """Each batch, and how many records its session gets after it."""
        left = dict(self._sizes)
        for batch in self.batches:
            left[batch.session_id] -= len(batch.rows)
            yield batch, left[batch.session_id]

    def _values(self) -> list[Any]:
        batches = self.batches
        creatable = {batch.session_id for batch in batches if not batch.expected_seq}
        keyed = [batch.idempotency_key is not None for batch in batches]
        places: list[int] = []
        numbers: list[int] = []
        rows: list[Row] = []
        for place, batch in enumerate(batches, 1):
            count = len(batch.rows)
            places += [place] * count
            numbers += range(1, count + 1)
            rows += batch.rows
        return [
            texts(sorted(self._sizes)),
            texts(list(creatable)),
            texts([batch.session_id for batch in batches]),
            integers([len(batch.rows) for batch in batches]),
            integers([batch.expected_seq for batch in batches]),
            texts([batch.idempotency_key for batch in batches]),
            blobs([b.digest if has else None for b, has in zip(batches, keyed, strict=True)]),
            integers(places),
            integers(numbers),
            *row_arrays(rows),
            self._facts(range(1, len(batches) + 1)),
            any(keyed),
        ]

    def _facts(self, places: Iterable[int]) -> str | None:
        found = [
            {"batch": place, **_stored_facts(facts)._asdict()}
            for place, batch in zip(places, self.batches, strict=True)
            for facts in merged(batch.calls)
        ]
        return msgspec.json.encode(found).decode() if found else None

    def answers(self, found: Iterable[Sequence[Any]]) -> list[Appended | AsyncHistoryError]:
        """What each batch is told."""
        if self._plain:
            ends = dict(zip(sorted(self._sizes), found, strict=True))
            return [
                _appended(batch, ends[batch.session_id][0], ends[batch.session_id][1] - left)
                for batch, left in self._with_left()
            ]
        return [
            _answer(batch, _Found(*row)) for batch, row in zip(self.batches, found, strict=True)
        ]


class _Found(NamedTuple):
    """What the statement says of a batch."""

    epoch: int | None
    seq: int
    start: int
    fine: bool
    known: bytes | None
    epoch_then: int
    first_seq: int
    last_seq: int


def _answer(batch: Batch, found: _Found) -> Appended | AsyncHistoryError:
    name = batch.session_id
    if found.fine:
        assert found.epoch is not None
        return _appended(batch, found.epoch, found.start + len(batch.rows))
    if found.known is not None:
        if found.known != batch.digest:
            return IdempotencyMismatchError(name, batch.idempotency_key or "")
        return Appended(
            session_id=name,
            epoch=found.epoch_then,
            first_seq=found.first_seq,
            last_seq=found.last_seq,
            replayed=True,
        )
    return SequenceConflictError(name, batch.expected_seq or 0, found.seq)


def _appended(batch: Batch, epoch: int, end: int) -> Appended:
    return Appended(
        session_id=batch.session_id,
        epoch=epoch,
        first_seq=end - len(batch.rows) + 1,
        last_seq=end,
    )


def row_arrays(rows: Sequence[Row]) -> list[Any]:
    """Arrays of type, time, id, body, checksum, role, model, tool calls, tool results."""
    sketches = [_of_body(row) for row in rows]
    roles, models, calls, results = zip(*sketches, strict=True) if sketches else ((), (), (), ())
    return [
        integers([row.type for row in rows]),
        integers([row.timestamp for row in rows]),
        blobs([row.record_id for row in rows]),
        texts([row.body for row in rows]),
        integers([row.checksum for row in rows]),
        texts(roles),
        texts(models),
        integers(calls),
        integers(results),
    ]


def _of_body(row: Row) -> tuple[str | None, str | None, int | None, int | None]:
    if row.type == _MESSAGE:
        sketch = _sketch(row.body)
        kinds = [part.type for part in sketch.parts]
        role = None if sketch.role is None else stored(sketch.role)
        calls, results = (min(kinds.count(kind), _MOST_PARTS) for kind in _COUNTED)
        return role, None, calls, results
    if row.type in CALL_TYPES:
        model = _sketch(row.body).model
        return None, None if model is None else stored(model), None, None
    return None, None, None, None


def merged(calls: Iterable[CallFacts]) -> list[CallFacts]:
    """Facts, those of one call in one."""
    found: dict[str, CallFacts] = {}
    for facts in calls:
        known = found.get(facts.request)
        found[facts.request] = facts if known is None else merge(known, facts)
    return list(found.values())


def _stored_facts(facts: CallFacts) -> CallFacts:
    return facts._replace(
        request=stored(facts.request),
        provider=stored(facts.provider),
        model=stored(facts.model),
        finish_reason=None if facts.finish_reason is None else stored(facts.finish_reason),
        currency=None if facts.currency is None else stored(facts.currency),
    )


def facts_json(calls: Iterable[CallFacts]) -> str:
    """Facts as a JSON array of objects."""
    return msgspec.json.encode([_stored_facts(facts)._asdict() for facts in calls]).decode()
