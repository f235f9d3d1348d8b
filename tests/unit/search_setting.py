"""A database whose search is tested without a store's threads, and what is known to be in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import apsw

from asynchistory import AnyRecord, Message, SQLiteStorage, StoredRecord
from asynchistory.codec import encode_record, row_record
from asynchistory.queries import SearchQuery
from asynchistory.storage.hits import hits
from asynchistory.storage.sqlite import search_index
from asynchistory.storage.sqlite.search import search

#: Short, so that texts and searches meet: letters that fold to several, to each other, or
#: compose; scripts without words; what SQLite's tokenizer, its syntax or UTF-8 take for special;
#: and code points that Unicode has not given a meaning.
ALPHABET = (
    "aAbBcC sSßẞ iIİıﬁ e\u0301\u0323éǰJ\u030c ΐΣσς\u0345 天气很好 กำก\u0e34 가각\u11a8\u1100\u1161 "
    "👩\u200d🚀\ufe0f🇩🇪 +-_.*\"'\\%^{}:() \0\n\t\x1c\u2028 \ufffd\uffff\u0378\U0010ffff Ω\u2126 "
    "в\u1c80Ꭰꭰ𐐀𐐨"
)


def empty_database(path: Path) -> bytes:
    """A database without sessions, as the store makes it at ``path``, in bytes."""

    async def make() -> None:
        async with SQLiteStorage(path):
            pass

    anyio.run(make)
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("journal_mode", "delete")  # a database in memory has no write-ahead log
        return db.serialize("main")


class Store:
    """A database, and beside it what is in it: records by rowid."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        self.records: dict[int, StoredRecord] = {}

    @classmethod
    def copy(cls, empty: bytes) -> Self:
        """A store in memory that begins as this database."""
        db = apsw.Connection(":memory:")
        db.deserialize("main", empty)
        db.pragma("trusted_schema", False)
        return cls(db)

    def reopened(self) -> Self:
        """The same store by another connection, which remembers nothing of its pages."""
        other = self.copy(self.db.serialize("main"))
        other.records = self.records
        return other

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        self.db.execute("BEGIN IMMEDIATE")
        yield self.db
        self.db.execute("COMMIT")

    def append(self, session_id: str, *records: AnyRecord) -> None:
        db = self.db
        sid = db.execute(
            "INSERT INTO sessions(id, created, updated, epoch) VALUES(?, 0, 0, 0) "
            "ON CONFLICT DO UPDATE SET updated = 0 RETURNING sid",
            (session_id,),
        ).fetchall()[0][0]
        for record in records:
            row = encode_record(record)
            ((seq,),) = db.execute(
                "UPDATE sessions SET seq = seq + 1 WHERE sid = ? RETURNING seq", (sid,)
            ).fetchall()
            db.execute(
                "INSERT INTO records(sid, seq, type, ts, id, body, crc) VALUES(?,?,?,?,?,?,?)",
                (sid, seq, *row),
            )
            self.records[db.last_insert_rowid()] = row_record(session_id, seq, row)

    def truncate(self, session_id: str, left: int) -> None:
        self.db.execute(
            "DELETE FROM records WHERE seq > ?2 AND sid = (SELECT sid FROM sessions WHERE id = ?1)",
            (session_id, left),
        )
        self.db.execute("UPDATE sessions SET seq = min(seq, ?2) WHERE id = ?1", (session_id, left))
        for rowid, record in list(self.records.items()):
            if record.session_id == session_id and record.seq > left:
                del self.records[rowid]

    def search(self, query: SearchQuery) -> list[tuple[str, int, str]]:
        return [
            (hit.record.session_id, hit.record.seq, hit.snippet) for hit in search(self.db, query)
        ]

    def scan(self, query: SearchQuery) -> list[tuple[str, int, str]]:
        """The same from what is known of the records, without the database."""
        newest = [self.records[rowid] for rowid in sorted(self.records, reverse=True)]
        if query.session_id is not None:
            newest = [record for record in newest if record.session_id == query.session_id]
        return [(hit.record.session_id, hit.record.seq, hit.snippet) for hit in hits(newest, query)]

    def index(self, most: int = 1_000) -> None:
        """Index all."""
        more = True
        while more:
            with self.transaction() as db:
                more = search_index.update(db, most)


def say(*texts: str) -> list[AnyRecord]:
    """A message of each text."""
    return [Message.of("user", text) for text in texts]


def find(store: Store, text: str, **options: Any) -> list[int]:
    """The seqs that a search finds."""
    return [seq for _, seq, _ in store.search(SearchQuery(text, **options))]
