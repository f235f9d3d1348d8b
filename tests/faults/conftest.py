"""What several of these tests need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage
from tests.faults.batches import CANARY, append
from tests.faults.ioerror import copy_files
from tests.faults.places import memory_folder


@pytest.fixture
def open_database() -> Iterator[Path]:
    """A database of ours, in a folder that any user may enter and write, which tmp_path is not."""

    async def fill(path: Path) -> None:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            await append(history, "chat", "old", 2, CANARY)
            copy_files(path, path.with_name("crashed"))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        anyio.run(fill, folder / "x.db")
        for file in (*folder.rglob("*"), folder):
            file.chmod(0o777 if file.is_dir() else 0o666)
        yield folder / "x.db"
        for file in (folder, *folder.rglob("*")):
            file.chmod(0o700)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a disk whose syncs take no time, for what does many of them."""
    with memory_folder() as name:
        yield Path(name)
