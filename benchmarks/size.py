"""What a conversation takes on disk, beside OpenAI's SQLiteSession.

    python -m benchmarks.size            a table for people
    python -m benchmarks.size --json     one JSON object
    python -m benchmarks.size --quick    the same; the real conversations are left out

One conversation of 400 turns, a question and an answer of ~500 bytes each, is
stored a turn at a time: by ours as two records, by OpenAI's as two items. Both
hold the same messages and nothing else; ours adds to each an id, a time to the
microsecond and a checksum, theirs a time to the second. What counts is all bytes
of the database after a clean close and a checkpoint, the write-ahead log
included.

The same at 100, 200, 400 and 800 turns shows whether a turn costs the same
however long the conversation is: ``growth_late_over_early`` is what a turn adds
between 400 and 800, over what it adds between 100 and 200. It is 1 for a file
that grows in proportion, and 4 where every turn stores the whole conversation.

``real_bytes_over_openai`` are 200 conversations of gpt-4o with tool calls, if the
file of them is beside the checkout (``../shared/data``): theirs as the messages
are, ours as records made of them, from which the same messages come back.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from asynchistory import AsyncHistoryManager, SQLiteStorage
from asynchistory.formats import conversation_from_openai, conversation_to_openai
from benchmarks._contender import TEXT, missing
from benchmarks._ours import OURS
from benchmarks._peers import has_agents
from benchmarks._report import as_json, listing, machine, options, table

TURNS = (100, 200, 400, 800)
TURN = 400
OPENAI = "OpenAI Agents SQLiteSession"
REAL = "tau-bench, 200 runs"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_gpt4o_airline.json"
COLUMNS = {
    "conversations": "conversations", "name": "contender", "messages": "messages",
    "bytes": "bytes", "bytes_per_message": "a message", "note": "note",
}  # fmt: skip

#: A conversation as the steps in which it is stored.
Steps = list[list[dict[str, Any]]]
Store = Callable[[Path, list[Steps]], Awaitable[None]]


def talk(turns: int) -> Steps:
    """A conversation of questions and answers."""
    return [
        [
            {"role": "user", "content": f"{turn} {TEXT}"},
            {"role": "assistant", "content": f"{turn} {TEXT}"},
        ]
        for turn in range(turns)
    ]


def real() -> list[Steps]:
    """Real conversations, a message a step; none where the file is missing."""
    if not DATA.exists():
        return []
    runs = json.loads(DATA.read_text(encoding="utf-8"))
    return [[[message] for message in run["traj"]] for run in runs]


async def ours(path: Path, conversations: list[Steps]) -> None:
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for number, steps in enumerate(conversations):
            for step in steps:
                await history.append(f"chat-{number}", *conversation_from_openai(step))


async def openai(path: Path, conversations: list[Steps]) -> None:
    from agents import SQLiteSession

    for number, steps in enumerate(conversations):
        session = SQLiteSession(f"chat-{number}", path)
        items: Any
        for items in steps:
            await session.add_items(items)
        session.close()


async def check(path: Path, conversations: list[Steps]) -> None:
    """What takes little room has to be all there."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for number, steps in enumerate(conversations):
            records: Any = await history.last(f"chat-{number}", 10_000, level="fresh")
            if conversation_to_openai(records) != [message for step in steps for message in step]:
                raise AssertionError(f"conversation {number} did not come back as it was")


def stored(store: Store, conversations: list[Steps], folder: str | None) -> int:
    """The bytes that it takes, closed and checkpointed."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
        path = Path(place, "size.db")
        anyio.run(store, path, conversations)
        if store is ours:
            anyio.run(check, path, conversations)
        db = sqlite3.connect(path)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.close()
        return sum(file.stat().st_size for file in Path(place).iterdir())


def row(
    name: str, what: str, store: Store, conversations: list[Steps], folder: str | None
) -> dict[str, Any]:
    size = stored(store, conversations, folder)
    messages = sum(len(step) for steps in conversations for step in steps)
    return {
        "name": name,
        "conversations": what,
        "messages": messages,
        "bytes": size,
        "bytes_per_message": round(size / messages),
        "note": "",
    }


def measure(quick: bool, folder: str | None) -> list[dict[str, Any]]:
    kinds = [(f"{turns} turns", [talk(turns)]) for turns in TURNS]
    if not quick:
        kinds += [(REAL, conversations)] if (conversations := real()) else []
    reason = missing(has_agents)
    rows = []
    for what, conversations in kinds:
        rows.append(row(OURS, what, ours, conversations, folder))
        if reason is None:
            rows.append(row(OPENAI, what, openai, conversations, folder))
    if reason is not None:
        rows.append({"name": OPENAI, "conversations": "", "note": reason})
    return rows


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over theirs, and how the file grows."""
    sizes = {(row["name"], row["conversations"]): row.get("bytes", 0) for row in rows}
    found = {}
    for name, what in (("bytes_over_openai", f"{TURN} turns"), ("real_bytes_over_openai", REAL)):
        if (OURS, what) in sizes and (OPENAI, what) in sizes:
            found[name] = sizes[OURS, what] / sizes[OPENAI, what]
    early, late = (_bytes_a_turn(sizes, *span) for span in (TURNS[:2], TURNS[-2:]))
    found["growth_late_over_early"] = late / early
    return found


def _bytes_a_turn(sizes: dict[tuple[str, str], int], start: int, end: int) -> float:
    """What each turn between these two lengths adds to ours."""
    return (sizes[OURS, f"{end} turns"] - sizes[OURS, f"{start} turns"]) / (end - start)


def main(arguments: list[str] | None = None) -> int:
    chosen = options("size", __doc__).parse_args(arguments)
    start = time.perf_counter()
    rows = measure(chosen.quick, chosen.folder)
    if chosen.json:
        print(as_json("size", ratios(rows), rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{listing(ratios(rows))}")
    print(f"\n{machine()}; {time.perf_counter() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
