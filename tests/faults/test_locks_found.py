"""What the tests of locks found: a store that is only to be read waits for the lock to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import append
from tests.faults.test_locks import locked


@pytest.mark.anyio
async def test_an_existing_file_opens_and_reads_though_another_process_writes(
    tmp_path: Path,
) -> None:
    storage = SQLiteStorage(tmp_path / "x.db", lock_timeout=0.02)
    async with AsyncHistoryManager(storage) as history:
        await append(history, "chat", "old", 1)

    with locked(tmp_path / "x.db"):
        async with AsyncHistoryManager(storage, level="fresh") as history:
            assert len(await history.last("chat")) == 1
