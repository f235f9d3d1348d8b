"""Flip every single bit of stored records, one at a time, and see that each is reported.

A sample has a session for each type of record, and in the middle of each session a *victim* whose
bits are flipped. Where the bit is in the file is known from SQLite's record format, in which a
row's values stand one after another: type, time, id, body, checksum. These are flipped in the
file's bytes. Integers that SQLite keeps in fewer than eight bytes have more bits than there are in
the file; all 64 of type, time and checksum, and those of the id, are flipped by an UPDATE, too.

One bit in each session is flipped at a time; then the file is opened and every session is read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import apsw

from asynchistory import (
    AsyncHistoryManager,
    Checkpoint,
    CorruptRecord,
    CorruptRecordError,
    Cost,
    HistoryQuery,
    LLMRequest,
    LLMResponse,
    Message,
    SQLiteStorage,
    TokenUsage,
    ToolCall,
)
from asynchistory.cache.tail import Level
from tests.faults.places import memory_folder
from tests.faults.report import LOOPS, Report, new_seed

_CALL: dict[str, Any] = {"request_id": "request-1", "provider": "p", "model": "m"}
SAMPLE: dict[str, Any] = {
    "message": Message.of("user", "plain text"),
    "unicode": Message.of("assistant", "Grüße, 你好 and \N{WAVING HAND SIGN}", name="n"),
    "tool_call": ToolCall(name="f", input={"x": [1, None, True]}, output="y", call_id="c"),
    "llm_request": LLMRequest(**_CALL, parameters={"temperature": 0.5}),
    "llm_response": LLMResponse(**_CALL, content="done", finish_reason="stop"),
    "token_usage": TokenUsage(**_CALL, input_tokens=10, output_tokens=20, total_tokens=30),
    "cost": Cost(**_CALL, input_cost=Decimal("0.5"), total_cost=Decimal("0.75")),
    "checkpoint": Checkpoint(name="c", state={"a": 1}, at_seq=2),
}
LEVELS: tuple[Level, ...] = ("fresh", "validated", "cached")
#: The victim's place, and the length, of each session.
VICTIM, LENGTH = 3, 5
_ROW = "SELECT rowid, type, ts, id, CAST(body AS BLOB), crc FROM records WHERE seq = 3 AND sid = "


class Flip(NamedTuple):
    """One bit of one value of one victim: in the file at ``offset``, or with None by an UPDATE."""

    session_id: str
    rowid: int
    column: str
    bit: int
    offset: int | None


# -- where the bits are


def flips(connection: apsw.Connection, image: bytes) -> dict[str, list[Flip]]:
    """Every bit of each session's victim."""
    found: dict[str, list[Flip]] = {}
    for sid, session_id in connection.execute("SELECT sid, id FROM sessions ORDER BY sid"):
        [(rowid, *values)] = connection.execute(_ROW + str(sid)).fetchall()
        found[session_id] = [
            *_in_file(session_id, rowid, values, image),
            *_by_update(session_id, rowid, values),
        ]
    return found


def _in_file(session_id: str, rowid: int, values: list[Any], image: bytes) -> Iterator[Flip]:
    """The bits of a row in the file's bytes."""
    columns = list(zip(("type", "ts", "id", "body", "crc"), map(_stored, values), strict=True))
    offset = _place(image, rowid, b"".join(stored for _, stored in columns), len(columns[0][1]))
    for column, stored in columns:
        for bit in range(8 * len(stored)):
            yield Flip(session_id, rowid, column, bit % 8, offset + bit // 8)
        offset += len(stored)


def _place(image: bytes, rowid: int, row: bytes, skip: int) -> int:
    """Where the row is. Copies of it may stand in the unused parts of pages, too."""
    offset = image.find(row)
    while offset >= 0:
        changed = bytearray(image)
        changed[offset + skip + 7] ^= 1  # in its time
        changed[18:20] = b"\1\1"  # a database in memory has no write-ahead log
        with closing(apsw.Connection(":memory:")) as connection:
            connection.deserialize("main", bytes(changed))
            [(ts,)] = connection.execute("SELECT ts FROM records WHERE rowid = ?", (rowid,))
        if ts.to_bytes(8, "big") != row[skip : skip + 8]:
            return offset
        offset = image.find(row, offset + 1)
    raise ValueError(f"row {rowid} is not in the file as it is known to be written")


def _stored(value: Any) -> bytes:
    """A value as SQLite writes it: https://www.sqlite.org/fileformat.html#record_format."""
    if isinstance(value, bytes):
        return value
    if value in (0, 1):
        return b""  # its type says it all
    for size in (1, 2, 3, 4, 6, 8):
        if -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1:
            return int(value).to_bytes(size, "big", signed=True)
    raise AssertionError


def _by_update(session_id: str, rowid: int, values: list[Any]) -> Iterator[Flip]:
    for column, bits in (("type", 64), ("ts", 64), ("crc", 64), ("id", 8 * len(values[2]))):
        for bit in range(bits):
            yield Flip(session_id, rowid, column, bit, None)


# -- flipping


def apply(path: Path, chosen: Iterable[Flip]) -> None:
    """Flip these bits of a file that nobody has open."""
    later: list[Flip] = []
    with path.open("r+b") as file:
        for flip in chosen:
            if flip.offset is None:
                later.append(flip)
                continue
            file.seek(flip.offset)
            [byte] = file.read(1)
            file.seek(flip.offset)
            file.write(bytes([byte ^ 1 << flip.bit]))
    with closing(apsw.Connection(str(path))) as connection:
        for flip in later:
            _update(connection, flip)


def _update(connection: apsw.Connection, flip: Flip) -> None:
    [(value,)] = connection.execute(
        f"SELECT {flip.column} FROM records WHERE rowid = ?", (flip.rowid,)
    ).fetchall()
    if isinstance(value, bytes):
        number = int.from_bytes(value, "big") ^ 1 << flip.bit
        flipped: int | bytes = number.to_bytes(len(value), "big")
    else:
        number = value % 2**64 ^ 1 << flip.bit
        flipped = number - 2**64 if number >= 2**63 else number
    connection.execute(
        f"UPDATE records SET {flip.column} = ? WHERE rowid = ?", (flipped, flip.rowid)
    )


# -- the judgement


async def judge(
    report: Report, path: Path, chosen: dict[str, Flip], sound: dict[str, tuple[Any, ...]]
) -> None:
    """Read a file in which bits were flipped, in every way, and see what is said of them."""
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        for session_id, flip in chosen.items():
            query = HistoryQuery(session_id)
            for level in LEVELS:
                _compare(report, flip, sound, await history.last(session_id, level=level))
                page = await history.query_history(query, level=level)
                _compare(report, flip, sound, page.records)
            await _be_strict(report, history, flip)
            await _works(report, history.get_session_summary(session_id), f"{flip}: a summary")
        # One damaged record must not take from the others what goes over all of them.
        await _works(
            report, history.search("text"), "a search, with a bit of each session flipped,"
        )
        await _works(report, history.count(), "a count, with a bit of each session flipped,")


async def _works(report: Report, call: Awaitable[object], what: str) -> None:
    try:
        await call
    except Exception as error:
        report.note("errors", f"{what} raised {type(error).__name__}: {error}")


def _compare(
    report: Report, flip: Flip, sound: dict[str, tuple[Any, ...]], read: tuple[Any, ...]
) -> None:
    for seq, (is_, was) in enumerate(zip_longest(read, sound[flip.session_id]), 1):
        if seq != VICTIM:
            if is_ != was:
                report.note("errors", f"{flip}: record {seq} was sound, and was not read")
        elif not isinstance(is_, CorruptRecord):
            report.note("unreported", f"{flip}: it was read as a {type(is_).__name__}")
        elif (is_.session_id, is_.seq) != (flip.session_id, VICTIM):
            report.note("errors", f"{flip}: it was reported as {is_.session_id} {is_.seq}")


async def _be_strict(report: Report, history: AsyncHistoryManager, flip: Flip) -> None:
    try:
        await history.query_history(HistoryQuery(flip.session_id, strict=True))
    except CorruptRecordError as error:
        if (error.session_id, error.seq) != (flip.session_id, VICTIM):
            report.note("errors", f"{flip}: a strict read named {error.session_id} {error.seq}")
    else:
        report.note("unreported", f"{flip}: a strict read did not raise")


# -- the campaign


class Bench:
    """A sound file, and the bits of its victims."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.db"
        self.sound: dict[str, tuple[Any, ...]] = {}
        anyio.run(self._fill)
        self.image = self.path.read_bytes()
        with closing(apsw.Connection(str(self.path))) as connection:
            self.flips = flips(connection, self.image)

    async def _fill(self) -> None:
        async with AsyncHistoryManager(SQLiteStorage(self.path)) as history:
            for session_id, record in SAMPLE.items():
                for number in range(1, LENGTH + 1):
                    other = Message.of("user", f"text {number}")
                    await history.append(session_id, record if number == VICTIM else other)
                self.sound[session_id] = await history.last(session_id, level="fresh")

    def flip(self, report: Report, chosen: list[Flip], backend: str) -> None:
        """Flip one bit in each of some sessions, and judge what is read."""
        self.path.write_bytes(self.image)
        apply(self.path, chosen)
        for flip in chosen:
            how = "by UPDATE" if flip.offset is None else "in the file"
            report.counts[f"{flip.column}, {how}"] += 1
        by_session = {flip.session_id: flip for flip in chosen}
        try:
            anyio.run(judge, report, self.path, by_session, self.sound, backend=backend)
        except Exception as error:
            report.note("unopenable", f"{chosen}: {type(error).__name__}: {error}")


def campaign(times: int) -> Report:
    """Flip ``times`` bits; every one of the sample's, if it is that many."""
    report = Report("bitflip", times, unit="bits, read on both loops in turn", seed=new_seed())
    start = time.monotonic()
    draw = random.Random(report.seed)
    with memory_folder() as folder:
        left = times
        while left > 0:
            bench = Bench(Path(folder))
            report.counts["bits that a sample has"] = sum(map(len, bench.flips.values()))
            for bits in bench.flips.values():
                draw.shuffle(bits)
            for number, row in enumerate(zip_longest(*bench.flips.values())):
                chosen = [flip for flip in row if flip is not None][:left]
                bench.flip(report, chosen, LOOPS[number % len(LOOPS)])
                left -= len(chosen)
                if left <= 0:
                    break
            bench.path.unlink()
    report.seconds = time.monotonic() - start
    return report
