"""The public contract kit over our own stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import MemoryStorage, PostgresStorage, SQLiteStorage, Storage
from asynchistory.testing.contract import StoreContract
from tests.postgres import server, url_of


@pytest.fixture(autouse=True, scope="module")
def _server() -> None:
    server()  # started here, and not on an event loop


class TestMemory(StoreContract):
    durable = False

    def make_storage(self, folder: Path) -> Storage:
        return MemoryStorage()


class TestSQLite(StoreContract):
    def make_storage(self, folder: Path) -> Storage:
        return SQLiteStorage(folder / "history.db")


class TestPostgres(StoreContract):
    def make_storage(self, folder: Path) -> Storage:
        return PostgresStorage(url_of(str(folder)))
