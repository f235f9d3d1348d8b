"""Sessions of plain messages, as the tests of changes make and read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryQuery,
    Message,
    StoredRecord,
    TailCache,
    TokenUsage,
)

#: The least checked first: a read at another level would bring the cache up to date.
LEVELS: tuple[Literal["validated", "cached", "fresh"], ...] = ("cached", "validated", "fresh")


def say(text: str) -> Message:
    return Message.of("user", text)


def numbers(last: int, first: int = 1) -> list[str]:
    """The texts of records that are numbered as their seq is."""
    return [str(number) for number in range(first, last + 1)]


def usage(request: str, tokens: int, model: str = "m") -> TokenUsage:
    return TokenUsage(
        request_id=request, provider="p", model=model, input_tokens=tokens, output_tokens=0
    )


async def fill(
    history: AsyncHistoryManager, session_id: str, last: int, *, user_id: str | None = None
) -> None:
    """Make a session of ``last`` records, whose texts are their seqs."""
    await history.create_session(session_id, user_id=user_id)
    await add(history, session_id, *numbers(last))


async def add(history: AsyncHistoryManager, session_id: str, *texts: str) -> None:
    if texts:
        await history.append(session_id, *map(say, texts))


async def read_all(
    history: AsyncHistoryManager, session_id: str, **options: Any
) -> tuple[StoredRecord, ...]:
    page = await history.query_history(HistoryQuery(session_id, limit=10_000), **options)
    return page.records


async def texts(history: AsyncHistoryManager, session_id: str, **options: Any) -> list[str]:
    """The session's texts; that its seqs are 1, 2, 3 ... and its own is checked on the way."""
    records = await read_all(history, session_id, **options)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert {record.session_id for record in records} <= {session_id}
    return [record.text for record in records]


async def all_texts(history: AsyncHistoryManager, names: Iterable[str]) -> dict[str, list[str]]:
    return {name: await texts(history, name) for name in names}


async def seqs(history: AsyncHistoryManager, session_id: str, **query: Any) -> list[int]:
    page = await history.query_history(HistoryQuery(session_id, **query))
    return [record.seq for record in page]


async def session_ids(history: AsyncHistoryManager) -> set[str]:
    return {session.id for session in await history.list_sessions(limit=10_000)}


# -- handles of one store, each with a cache of its own


def cached(history: AsyncHistoryManager) -> AsyncHistoryManager:
    """A manager over the same store, which is not told what others write."""
    return AsyncHistoryManager(history.storage, TailCache())


async def warm(history: AsyncHistoryManager, *names: str) -> None:
    """Have the sessions in the manager's cache."""
    for name in names:
        await history.last(name, level="validated")


async def assert_current(
    writer: AsyncHistoryManager, reader: AsyncHistoryManager, names: Sequence[str]
) -> None:
    """What caches hand out is what is stored: the writer's at each level, another's validated."""
    for name in names:
        stored = await read_all(writer, name, level="fresh")
        for level in LEVELS:
            assert await writer.last(name, 10_000, level=level) == stored
            assert await read_all(writer, name, level=level) == stored
        assert await reader.last(name, 10_000, level="validated") == stored
        assert await read_all(reader, name, level="validated") == stored


async def assert_rewritten(
    history: AsyncHistoryManager,
    session_id: str,
    change: Callable[[], Awaitable[object]],
) -> None:
    """The change begins a new epoch: higher, and with it cursors of the old one are refused."""
    before = await history.get_session(session_id)
    assert before.seq >= 2, "a session that is to have cursors needs two records"
    forwards = await history.query_history(HistoryQuery(session_id, limit=1))
    backwards = await history.query_history(HistoryQuery(session_id, limit=1, newest=True))

    await change()

    assert (await history.get_session(session_id)).epoch > before.epoch
    for level in LEVELS:
        for query in (
            HistoryQuery(session_id, after=forwards.next),
            HistoryQuery(session_id, before=backwards.next),
        ):
            with pytest.raises(EpochChangedError):
                await history.query_history(query, level=level)
