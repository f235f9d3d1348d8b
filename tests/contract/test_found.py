"""What tests have found and is not mended: each of these fails for a fault of the library."""

from __future__ import annotations

import pytest

from asynchistory import AsyncHistoryManager
from tests.contract.chats import add

pytestmark = pytest.mark.anyio


async def test_a_search_in_a_fork_finds_what_it_shares(history: AsyncHistoryManager) -> None:
    """The stores differ: SQLite finds a shared record in one session alone, memory in each."""
    await add(history, "chat", "needle 1", "needle 2")
    await history.fork("chat", "fork", at_seq=1)
    await add(history, "fork", "needle 3")

    found = await history.search("needle", session_id="fork")

    assert [hit.record.text for hit in found] == ["needle 3", "needle 1"]
