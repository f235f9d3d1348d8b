"""Statistics over every model call, beside a scan that sums the same numbers in SQL."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import apsw

from asynchistory import AsyncHistoryManager, SQLiteStorage
from benchmarks._ours import LOOPS

Grouping = Literal["day", "model"]
GROUPINGS: tuple[Grouping, ...] = ("day", "model")
SCAN = "full scan in SQL"

_FIELDS = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_SCAN = (
    f"SELECT model, day, {', '.join(f'coalesce(sum({name}), 0)' for name in _FIELDS)} "
    "FROM calls GROUP BY model, day"
)


class Timing(NamedTuple):
    """How long one answer took, in seconds, and the tokens that it summed up to."""

    name: str
    loop: str | None
    seconds: float
    tokens: int


def scan(path: Path) -> Timing:
    """One pass over the table with one row a call, as a program without a rollup would do it."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute("SELECT count(*) FROM sessions").fetchall()  # reads the schema
        start = time.perf_counter()
        rows: list[Any] = db.execute(_SCAN).fetchall()
        taken = time.perf_counter() - start
    finally:
        db.close()
    return Timing(SCAN, None, taken, sum(row[4] for row in rows))


async def ask(path: Path, loop: str) -> list[Timing]:
    """What the library answers, by day and by model."""
    found = []
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.last("chat-0", 1, level="fresh")  # starts a reader
        for grouping in GROUPINGS:
            start = time.perf_counter()
            answer = await history.get_token_statistics(group_by=grouping)
            taken = time.perf_counter() - start
            total = sum(group.total_tokens for group in answer.groups.values())
            found.append(Timing(f"statistics by {grouping}", loop, taken, total))
    return found


def one_round(path: Path, repetitions: int) -> list[Timing]:
    """All of them, one after the other, several times."""
    found = []
    for _ in range(repetitions):
        found.append(scan(path))
        for loop in LOOPS:
            found += anyio.run(ask, path, loop, backend=loop)
    if len({timing.tokens for timing in found}) > 1:
        raise AssertionError("the statistics and the scan do not agree")
    return found
