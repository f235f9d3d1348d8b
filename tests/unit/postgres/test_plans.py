"""Every query that grows with a store finds its way by an index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asynchistory import AsyncHistoryManager, HistoryQuery, Message, PostgresStorage
from asynchistory.storage.postgres.sql import Statements
from tests.contract.archiving import call
from tests.postgres import direct, url_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[AsyncHistoryManager]:
    """5,000 sessions of 20 records."""
    url = url_of(str(tmp_path))
    async with AsyncHistoryManager(PostgresStorage(url), level="fresh") as history:
        await history.create_session("chat-0", user_id="ann-0")
        await history.append("chat-0", Message.of("user", "needle in the hay"))
        await history.append("with calls", *call(1))
        with direct(url) as db:
            db.execute(
                "INSERT INTO sessions(id, user_id, created, updated, epoch, seq) "
                "SELECT 'chat-' || g, 'ann-' || g % 500, m, m, nextval('epochs'), 20 "
                "FROM generate_series(1, 4999) g, LATERAL (SELECT g * 60000000::bigint) t(m)"
            )
            db.execute(
                "INSERT INTO records(sid, seq, ts, crc, type, id, role, body) "
                "SELECT s.sid, g, r.ts, r.crc, r.type, r.id, r.role, r.body FROM sessions s "
                "CROSS JOIN generate_series(2, 20) g CROSS JOIN (SELECT * FROM records LIMIT 1) r"
                " WHERE s.id LIKE 'chat-%'"
            )
            db.execute(
                "INSERT INTO idempotency SELECT s.sid, 'k' || g, '', 1, 1, 1 "
                "FROM sessions s CROSS JOIN generate_series(1, 3) g"
            )
            db.execute("UPDATE sessions SET seq = 20 WHERE id = 'chat-0'")
            db.execute("ANALYZE")
        yield history


@contextmanager
def explained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Queries that are run in this block, each with its plan."""
    plans: list[tuple[str, str]] = []
    rows = Statements.rows

    async def explaining(self: Statements, sql: str, values: Any = ()) -> list[Any]:
        if sql.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")):
            found = await rows(self, f"EXPLAIN {sql}", values)
            plans.append((sql, "\n".join(line for (line,) in found)))
        return await rows(self, sql, values)

    with monkeypatch.context() as patch:
        patch.setattr(Statements, "rows", explaining)
        yield plans


async def test_no_query_reads_a_whole_table(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = history.storage
    with explained(monkeypatch) as plans:
        await storage.version("chat-7")
        await history.last("chat-7", 5)
        page = await history.query_history(HistoryQuery("chat-7", limit=5))
        await history.query_history(HistoryQuery("chat-7", limit=5, after=page.next))
        await history.query_history(HistoryQuery("chat-7", limit=5, newest=True, with_total=True))
        await history.query_history(HistoryQuery("chat-7", record_types=("cost",), limit=5))
        await history.get_session("chat-7")
        for order in ("updated", "created"):
            some = await history.list_sessions(limit=10, order=order)
            await history.list_sessions(limit=10, order=order, after=some.next)
        await history.list_sessions(limit=10, user_id="ann-3")
        await history.search("needle", limit=5)
        await history.search("nothing", session_id="chat-7")
        await history.search("needle", user_id="ann-3", limit=5)
        await history.get_session_summary("chat-7")
        await history.fork("chat-7", "fork", at_seq=10)
        await history.truncate("chat-7", 15)
        await history.last("fork", 15)
        await history.replace("chat-8", Message.of("user", "x"), idempotency_key="new")
        await history.delete_session("chat-9")
        await storage.prune(now=datetime(1970, 1, 2, tzinfo=UTC), older_than=None, most=10)
        await storage.erase_user("ann-5", most=2)

    assert len(plans) > 40
    for sql, plan in plans:
        assert "Seq Scan on" not in plan, f"{sql}\n{plan}"
