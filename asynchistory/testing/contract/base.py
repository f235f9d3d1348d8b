"""What all parts of the contract stand on: a store, a history over it, plain messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from asynchistory.cache.tail import TailCache
from asynchistory.errors import SessionNotFoundError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import HistoryQuery
from asynchistory.records import Cost, LLMRequest, LLMResponse, Message, TokenUsage, Usage, money
from asynchistory.storage.port import Storage


class Contract:
    """A part of the contract."""

    pytestmark: ClassVar[pytest.MarkDecorator] = pytest.mark.anyio

    durable: ClassVar[bool] = True

    def make_storage(self, folder: Path) -> Storage:
        """A new store object, not yet open, over the home of sessions that ``folder`` stands for.

        The same folder is the same home; a folder that is new is an empty one.
        """
        raise NotImplementedError("say in make_storage how to make your store")

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """The event loop: each of them in turn."""
        return str(request.param)

    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[Storage]:
        """An open store without sessions."""
        async with self.make_storage(tmp_path) as storage:
            yield storage

    @pytest.fixture
    async def history(self, storage: Storage) -> AsyncHistoryManager:
        """A history over it, whose reads come from the store and not from a cache."""
        return AsyncHistoryManager(storage, TailCache(), level="fresh")


def text_of(record: Any) -> str:
    """What a message says; an error for what is none."""
    text: str = record.text
    return text


def say(text: str, **fields: Any) -> Message:
    """A message of a user."""
    return Message.of("user", text, **fields)


def numbered(last: int, first: int = 1) -> list[Message]:
    """Messages whose texts are the numbers from ``first`` to ``last``."""
    return [say(str(number)) for number in range(first, last + 1)]


def call(request: str, *, model: str = "m", tokens: int = 10, price: str = "0.5") -> list[Any]:
    """The four records of one call to a model."""
    base: dict[str, Any] = {"request_id": request, "provider": "p", "model": model}
    return [
        LLMRequest(**base),
        LLMResponse(**base, finish_reason="stop", response_time=0.5, usage=Usage(input_tokens=999)),
        TokenUsage(**base, input_tokens=tokens, output_tokens=1),
        Cost(**base, total_cost=money(price), currency="USD"),
    ]


async def texts(history: AsyncHistoryManager, session_id: str = "chat") -> list[str]:
    """A session's texts, in order; that its seqs are 1, 2, 3 ... is checked on the way."""
    found: list[Any] = []
    after: str | None = None
    while True:
        query = HistoryQuery(session_id, limit=10_000, after=after)
        page = await history.query_history(query, level="fresh")
        found += page.records
        if (after := page.next) is None:
            break
    seqs = [record.seq for record in found]
    assert seqs == list(range(1, len(seqs) + 1)), "a session's seqs have a gap, or another order"
    assert {record.session_id for record in found} <= {session_id}
    return [record.text for record in found]


async def texts_or_none(history: AsyncHistoryManager, session_id: str = "chat") -> list[str] | None:
    """The same; None if there is no such session."""
    try:
        return await texts(history, session_id)
    except SessionNotFoundError:
        return None
