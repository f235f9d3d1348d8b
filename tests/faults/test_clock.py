"""A wall clock that is set back: order is by seq, and nothing else may depend on it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, HistoryQuery, Message, SQLiteStorage
from tests.faults.bitflip import LEVELS

pytestmark = pytest.mark.anyio

HOUR = 3600 * 10**9


class Clock:
    """The system's clock, with steps."""

    def __init__(self) -> None:
        self._real = time.time_ns
        self._offset = 0

    def __call__(self) -> int:
        return self._real() + self._offset

    def step(self, nanoseconds: int) -> None:
        self._offset += nanoseconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    return clock


async def fill(history: AsyncHistoryManager, clock: Clock) -> list[str]:
    """Appends between which the clock goes back an hour, and once ahead a day."""
    words = [f"word-{number}" for number in range(9)]
    for number, word in enumerate(words):
        await history.append("chat", Message.of("user", word), idempotency_key=word)
        clock.step(24 * HOUR if number == 4 else -HOUR)
    return words


def texts(records: tuple[object, ...]) -> list[str]:
    return [record.text for record in records]  # type: ignore[attr-defined]


async def test_every_read_is_in_the_order_of_the_appends(tmp_path: Path, clock: Clock) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        words = await fill(history, clock)

        for level in LEVELS:
            assert texts(await history.last("chat", 100, level=level)) == words
            assert texts(await history.last("chat", 3, level=level)) == words[-3:]
        first = await history.query_history(HistoryQuery("chat", limit=5), level="fresh")
        rest = await history.query_history(HistoryQuery("chat", after=first.next), level="fresh")
        assert texts(first.records) + texts(rest.records) == words
        assert texts([hit.record for hit in await history.search("word")]) == words[::-1]
        times = [record.timestamp for record in await history.last("chat", 100)]
        assert times != sorted(times), "the clock was not set back"

    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        assert texts(await history.last("chat", 100)) == words


async def test_ids_stay_unique_and_keys_are_known(tmp_path: Path, clock: Clock) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        words = await fill(history, clock)

        for seq, word in enumerate(words, 1):
            again = await history.append("chat", Message.of("user", word), idempotency_key=word)
            assert (again.replayed, again.first_seq) == (True, seq)
        records = await history.last("chat", 100)
        assert len({record.record_id for record in records}) == len(words)


async def test_a_filter_by_time_goes_by_what_the_clock_said(tmp_path: Path, clock: Clock) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        words = await fill(history, clock)
        soon = datetime.now(UTC) + timedelta(hours=1)

        page = await history.query_history(HistoryQuery("chat", start_time=soon))

        assert texts(page.records) == words[5:]


async def test_sessions_stay_listed_once_each(tmp_path: Path, clock: Clock) -> None:
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "x.db")) as history:
        names = [f"session-{number}" for number in range(7)]
        for name in names:
            await history.append(name, Message.of("user", "x"))
            clock.step(-HOUR)
        for order in ("updated", "created"):
            found: list[str] = []
            page = await history.list_sessions(order=order, limit=3)
            found += [session.id for session in page]
            while page.next is not None:
                page = await history.list_sessions(order=order, limit=3, after=page.next)
                found += [session.id for session in page]
            assert sorted(found) == names
