"""One contract, every store: a test here asks for ``history`` or ``storage`` and gets each kind.

A further store is one more entry of ``STORES``: a function that takes a folder of the test's
own and returns a function that makes a handle on the same sessions each time it is called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    MemoryStorage,
    PostgresStorage,
    SQLiteStorage,
    Storage,
    TailCache,
)
from tests.postgres import url_of

MakeStorage = Callable[[], Storage]


def memory(folder: Path) -> MakeStorage:
    # Its contents live as long as the object, so a second handle is the same object.
    storage = MemoryStorage()
    return lambda: storage


def sqlite(folder: Path) -> MakeStorage:
    return lambda: SQLiteStorage(folder / "history.db")


def postgres(folder: Path) -> MakeStorage:
    url = url_of(str(folder))
    return lambda: PostgresStorage(url)


STORES: dict[str, Callable[[Path], MakeStorage]] = {
    "memory": memory,
    "postgres": postgres,
    "sqlite": sqlite,
}


@contextmanager
def locked_sqlite(folder: Path) -> Iterator[None]:
    with closing(apsw.Connection(str(folder / "history.db"))) as db:
        db.set_busy_timeout(10_000)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


#: For stores whose writes queue: while this is held, every write stays in the queue.
LOCKS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {"sqlite": locked_sqlite}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> str:
    """The name of the kind of store that this variant runs on."""
    return str(request.param)


@pytest.fixture
def make_storage(store: str, tmp_path: Path) -> MakeStorage:
    """Makes handles, not yet open, on one and the same home of sessions."""
    return STORES[store](tmp_path)


@pytest.fixture
def writes_held(store: str, tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks in which no write is begun."""
    if store not in LOCKS:
        pytest.skip(f"{store} has no queue that could be held")
    return lambda: LOCKS[store](tmp_path)


@pytest.fixture
async def storage(make_storage: MakeStorage) -> AsyncIterator[Storage]:
    """An open store without sessions."""
    async with make_storage() as storage:
        yield storage


@pytest.fixture
async def history(storage: Storage) -> AsyncHistoryManager:
    """A manager over the open store, whose reads come from the store and not from a cache."""
    return AsyncHistoryManager(storage, TailCache(), level="fresh")
