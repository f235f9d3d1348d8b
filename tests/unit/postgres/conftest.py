"""What the tests of the PostgreSQL store begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, PostgresStorage
from tests.faults.proxy import Proxy
from tests.postgres import proxied, url_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store of the test's own."""
    return url_of(str(tmp_path))


@pytest.fixture
def cut(url: str) -> Iterator[tuple[str, Proxy]]:
    """The same store's URL through a proxy, and the proxy."""
    with proxied(url) as found:
        yield found


@pytest.fixture
async def history(url: str) -> AsyncIterator[AsyncHistoryManager]:
    """That store, open and empty."""
    async with AsyncHistoryManager(PostgresStorage(url), level="fresh") as history:
        yield history
