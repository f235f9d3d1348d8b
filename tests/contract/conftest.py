"""One contract, every store: a test here asks for ``history`` or ``storage`` and gets each kind.

A further store is one more entry of ``STORES``: a function that takes a folder of the test's
own and returns a function that makes a handle on the same sessions each time it is called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, MemoryStorage, SQLiteStorage, Storage, TailCache

MakeStorage = Callable[[], Storage]


def memory(folder: Path) -> MakeStorage:
    # Its contents live as long as the object, so a second handle is the same object.
    storage = MemoryStorage()
    return lambda: storage


def sqlite(folder: Path) -> MakeStorage:
    return lambda: SQLiteStorage(folder / "history.db")


STORES: dict[str, Callable[[Path], MakeStorage]] = {"memory": memory, "sqlite": sqlite}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> str:
    """The name of the kind of store that this variant runs on."""
    return str(request.param)


@pytest.fixture
def make_storage(store: str, tmp_path: Path) -> MakeStorage:
    """Makes handles, not yet open, on one and the same home of sessions."""
    return STORES[store](tmp_path)


@pytest.fixture
async def storage(make_storage: MakeStorage) -> AsyncIterator[Storage]:
    """An open store without sessions."""
    async with make_storage() as storage:
        yield storage


@pytest.fixture
async def history(storage: Storage) -> AsyncHistoryManager:
    """A manager over the open store, whose reads come from the store and not from a cache."""
    return AsyncHistoryManager(storage, TailCache(), level="fresh")
