"""How current reads are is said by name, and a name that is none is refused."""

from __future__ import annotations

from typing import Any

import pytest

from asynchistory import AsyncHistoryManager, HistoryQuery, InvalidQueryError, MemoryStorage

BAD: Any = "chached"


@pytest.mark.anyio
async def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="level must be"):
        AsyncHistoryManager(MemoryStorage(), level=BAD)
    async with AsyncHistoryManager(MemoryStorage()) as history:
        await history.record_message("chat", "user", "hello")
        with pytest.raises(InvalidQueryError, match="level must be"):
            await history.last("chat", level=BAD)
        with pytest.raises(InvalidQueryError, match="level must be"):
            await history.query_history(HistoryQuery("chat"), level=BAD)
