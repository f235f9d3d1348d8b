"""PostgreSQL databases of every earlier schema open with all that they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, Message, PostgresStorage
from asynchistory.storage.postgres import schema
from asynchistory.storage.postgres.migrations import MIGRATIONS, SCHEMA_VERSION
from tests.contract.archiving import call
from tests.postgres import direct, url_of

pytestmark = pytest.mark.anyio


async def listed(history: AsyncHistoryManager) -> list[str]:
    return [session.id for session in (await history.list_sessions()).sessions]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_an_earlier_schema_opens_with_all_that_it_holds(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:version])
        patch.setattr(schema, "SCHEMA_VERSION", version)
        async with AsyncHistoryManager(PostgresStorage(url)) as history:
            await history.append("chat", *[Message.of("user", str(n)) for n in range(5)])
            await history.append("chat", *call(1), idempotency_key="key")
            await history.fork("chat", "fork", at_seq=3)
            await history.truncate("chat", 4)
            before = [await history.last(name, 100) for name in ("chat", "fork")]

    async with AsyncHistoryManager(PostgresStorage(url)) as history:
        assert await listed(history) == ["chat", "fork"]
        assert [await history.last(name, 100) for name in ("chat", "fork")] == before
        await history.append("fork", Message.of("user", "later"))
        assert await listed(history) == ["fork", "chat"]
        assert (await history.verify()).ok
    with direct(url) as db:
        assert db.execute("SELECT version FROM asynchistory_schema").fetchall() == [
            (SCHEMA_VERSION,)
        ]
