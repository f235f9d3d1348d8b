"""Batches that carry their own names, so that what is read back tells which of them it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import apsw

from asynchistory import AsyncHistoryManager, HistoryQuery, Message, SQLiteStorage
from tests.faults.report import Ack, Piece

#: Content that no error may say.
CANARY = "cAnArY-5517"


def records_of(batch: str, size: int, filling: str = "x") -> list[Message]:
    """The records of a batch, each of which says its place in it."""
    return [
        Message.of("user", filling, metadata={"batch": batch, "index": index, "size": size})
        for index in range(size)
    ]


async def append(
    history: AsyncHistoryManager,
    session_id: str,
    batch: str,
    size: int,
    filling: str = "x",
    *,
    key: str | None = None,
) -> Ack:
    """Append a batch; what it acknowledged."""
    records = records_of(batch, size, filling)
    appended = await history.append(session_id, *records, idempotency_key=key)
    return Ack(session_id, batch, size, appended.first_seq)


def piece_of(record: object) -> Piece:
    if not isinstance(record, Message):
        raise ValueError(f"a {type(record).__name__} was read")
    said = record.metadata
    return Piece(record.seq, said["batch"], said["index"], said["size"])


async def pieces_of(history: AsyncHistoryManager, session_id: str, offset: int = 0) -> list[Piece]:
    """The records of a session from ``offset`` on, in the order of a read."""
    pieces: list[Piece] = []
    query = HistoryQuery(session_id, limit=10_000, offset=offset)
    while True:
        page = await history.query_history(query)
        pieces += map(piece_of, page)
        if page.next is None:
            return pieces
        query = HistoryQuery(session_id, limit=10_000, after=page.next)


async def all_pieces(
    history: AsyncHistoryManager, start: Mapping[str, int] | None = None
) -> dict[str, list[Piece]]:
    """The records of every session, from its ``start`` on."""
    start = start or {}
    stored: dict[str, list[Piece]] = {}
    for session in await history.list_sessions(limit=1000):
        offset = start.get(session.id, 0)
        pieces = stored[session.id] = await pieces_of(history, session.id, offset)
        if session.seq != offset + len(pieces):
            raise ValueError(f"{session.id} stands at {session.seq}, other than its records")
    return stored


async def contents(path: Path, start: Mapping[str, int] | None = None) -> dict[str, list[Piece]]:
    """The records of every session of a file that is not open, from its ``start`` on."""
    async with AsyncHistoryManager(SQLiteStorage(path), level="fresh") as history:
        return await all_pieces(history, start)


def check_integrity(path: Path) -> str:
    """What SQLite itself says of a file: "ok" if all is well."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return str(connection.pragma("integrity_check"))
    except apsw.Error as error:
        return type(error).__name__
    finally:
        connection.close()
