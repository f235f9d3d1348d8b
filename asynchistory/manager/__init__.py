"""AsyncHistoryManager: durable history that is awaited, on asyncio and on trio."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from asynchistory.manager.archiving import Archiving
from asynchistory.manager.checkpoints import Checkpoints
from asynchistory.manager.counting import Counting, StatisticsOptions
from asynchistory.manager.exporting import Export
from asynchistory.manager.importing import AnyLines
from asynchistory.manager.reading import Reading
from asynchistory.manager.recording import WriteOptions
from asynchistory.manager.repairing import (
    OrphanToolResult,
    PendingToolCall,
    Repaired,
    Repairing,
)
from asynchistory.manager.sessions import Sessions
from asynchistory.manager.tokens import estimate_tokens
from asynchistory.manager.watching import Watch, Watching
from asynchistory.manager.windows import Window, Windows
from asynchistory.manager.writing import Writing

__all__ = [
    "AnyLines",
    "AsyncHistoryManager",
    "Export",
    "OrphanToolResult",
    "PendingToolCall",
    "Repaired",
    "StatisticsOptions",
    "Watch",
    "Window",
    "WriteOptions",
    "estimate_tokens",
]


class AsyncHistoryManager(
    Repairing, Checkpoints, Watching, Windows, Writing, Reading, Sessions, Counting, Archiving
):
    """The history of every conversation in one store.

    A manager is a handle: it can be used from any number of asyncio and trio
    event loops and threads at once, and several managers over one store share
    its cache. Nothing is opened before ``async with``::

        async with AsyncHistoryManager(storage) as history:
            await history.record_message("chat-1", "user", "Hello!")
            records = await history.last("chat-1", 20)

    Args:
        storage: where records are kept; see :func:`asynchistory.open_history`.
        cache: the in-process cache; the one shared by the store's managers if left out.
        level: how current reads are unless they say otherwise; see :data:`Level`.
    """

    async def __aenter__(self) -> Self:
        await self.storage.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.cache.settle()
        finally:
            await self.storage.aclose()
