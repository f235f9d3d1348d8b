"""The databases of the read benchmark, built once and kept for the next run."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio

from asynchistory import AsyncHistoryManager, SQLiteStorage
from benchmarks._corpus import MESSAGES, RECORDS_A_CALL, call, rounds
from benchmarks._raw import INSERT, TABLE

#: Part of the names of the files: raise it when what they hold changes.
REVISION = 1
#: Tasks that append at once while ours is built.
WRITERS = 1000


class Corpus:
    """Where the databases of one size are; each is built when it is first asked for.

    Args:
        messages: how many messages, and how many records of calls.
        folder: the folder that keeps them; one in the temporary folder if None.
    """

    def __init__(self, messages: int, folder: str | None) -> None:
        self.messages = messages
        self.length = min(MESSAGES, messages)
        self.sessions = messages // self.length
        self.calls = self.length // RECORDS_A_CALL
        default = Path(tempfile.gettempdir(), f"asynchistory-bench-{getpass.getuser()}")
        self.folder = Path(folder, "asynchistory-bench") if folder else default

    def ours(self) -> Path:
        """This library's: the messages, and the records of calls in sessions of their own."""
        return self._built("ours", _schema(), lambda path: anyio.run(self._build_ours, path))

    def openai(self) -> Path:
        """That of the OpenAI Agents SDK; both its sessions have the same schema."""
        return self._built("openai", "", self._build_openai)

    def plain(self) -> Path:
        """A plain table with a unique (session, seq) index."""
        return self._built("plain", "", self._build_plain)

    def _built(self, kind: str, schema: str, build: Callable[[Path], object]) -> Path:
        start = f"{kind}-{self.messages}-"
        path = self.folder / f"{start}{REVISION}{schema}.db"
        if path.exists():
            return path
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        for old in self.folder.glob(f"{start}*"):  # of another schema; they are large
            old.unlink(missing_ok=True)
        print(f"building {path} ...", file=sys.stderr, flush=True)
        begun = time.monotonic()
        place = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            build(place / "new.db")
            _tidy(place / "new.db")
            os.replace(place / "new.db", path)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        print(f"built in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        return path

    # -- ours: by its public methods, a message or a call an append

    async def _build_ours(self, path: Path) -> None:
        steps = self._steps()

        async def write() -> None:
            for session, records in steps:
                await history.append(session, *records)

        # A session's turn comes again after half of the others at least: with no more writers
        # than that, two messages of one session are never under way at once.
        writers = max(1, min(WRITERS, self.sessions // 2))
        async with (
            AsyncHistoryManager(SQLiteStorage(path, durability="relaxed")) as history,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(writers):
                tasks.start_soon(write)

    def _steps(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, said in enumerate(self._said()):
            for one in said:
                yield f"chat-{one.session}", (one.record,)
            turn, rest = divmod(number, RECORDS_A_CALL)
            if rest == 0 and turn < self.calls:
                for session in range(self.sessions):
                    yield f"calls-{session}", call(session, turn, self.calls)

    # -- others: by SQL, in one transaction, into the tables that they make themselves

    def _build_openai(self, path: Path) -> None:
        from agents import SQLiteSession

        SQLiteSession("chat-0", path).close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA synchronous=OFF")
        ids = [(f"chat-{session}",) for session in range(self.sessions)]
        db.executemany("INSERT INTO agent_sessions(session_id) VALUES(?)", ids)
        rows = ((f"chat-{one.session}", one.json) for said in self._said() for one in said)
        db.executemany("INSERT INTO agent_messages(session_id, message_data) VALUES(?, ?)", rows)
        db.commit()
        db.close()

    def _build_plain(self, path: Path) -> None:
        db = sqlite3.connect(path)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", *TABLE):
            db.execute(statement)
        rows = ((one.session, one.number + 1, one.json) for said in self._said() for one in said)
        db.executemany(INSERT, rows)
        db.commit()
        db.close()

    def _said(self) -> Iterator[Any]:
        return rounds(self.sessions, self.length)


def warm(path: Path) -> None:
    """Read the file once, so that the operating system has it in memory."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def _tidy(path: Path) -> None:
    """Leave one file, without a write-ahead log."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _schema() -> str:
    """What tells one schema of this library from another: its version, and a hash of its tables."""

    async def make(path: Path) -> None:
        async with AsyncHistoryManager(SQLiteStorage(path)):
            pass

    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "empty.db")
        anyio.run(make, path)
        db = sqlite3.connect(path)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
        db.close()
    return f"-v{version}-{hashlib.sha256(repr(tables).encode()).hexdigest()[:8]}"
