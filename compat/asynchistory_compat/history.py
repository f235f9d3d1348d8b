"""The synchronous twin of AsyncHistoryManager."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asynchistory
from asynchistory import (
    AsyncHistoryManager,
    CacheStatistics,
    EnhancedCacheManager,
    Storage,
    StoredRecord,
    StoreStatistics,
    open_history,
)
from asynchistory_compat.bridge import bridge
from asynchistory_compat.cache import AsyncCache, SyncCacheAdapter
from asynchistory_compat.mirror import mirror

T = TypeVar("T")


class Watch:
    """A session's records as they are stored; made by :meth:`HistoryManager.watch`.

    To be entered with ``with`` and iterated. The manager's timeout is that of each
    wait for a record: it raises ``TimeoutError``, after which one can go on.
    """

    def __init__(self, watch: asynchistory.Watch, timeout: float | None) -> None:
        self.watch: asynchistory.Watch = watch
        self.timeout: float | None = timeout

    @property
    def epoch(self) -> int:
        """The session's epoch, from when the watch was entered."""
        return self.watch.epoch

    @property
    def seq(self) -> int:
        """The record handed out last, or the one to begin after."""
        return self.watch.seq

    def __enter__(self) -> Self:
        bridge().call(self.watch.__aenter__, self.timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        bridge().call(lambda: self.watch.__aexit__(None, None, None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredRecord:
        return bridge().call(self.watch.__anext__, self.timeout)


class Export:
    """The lines of an export; made by :meth:`HistoryManager.export`.

    To be entered with ``with`` and iterated.

    Attributes:
        export: the async one, which counts sessions, records and damaged records.
    """

    def __init__(self, export: asynchistory.Export, timeout: float | None) -> None:
        self.export: asynchistory.Export = export
        self.timeout: float | None = timeout

    def __enter__(self) -> Self:
        bridge().call(self.export.__aenter__, self.timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        bridge().call(lambda: self.export.__aexit__(None, None, None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        line = bridge().call(lambda: anext(self.export, None), self.timeout)
        if line is None:
            raise StopIteration
        return line


class HistoryManager:
    """History for synchronous code: the same object that async code awaits.

    It can be used from any thread, also from one whose own event loop is
    running. It opens at first use and closes with the process, or at the end
    of a ``with`` block::

        with HistoryManager("history.db") as history:
            history.record_message("chat-1", "user", "Hello!")
            records = history.last("chat-1", 20)

    Args:
        storage: an :class:`asynchistory.AsyncHistoryManager` to share, a
            store, or a URL or path as :func:`asynchistory.open_history` takes.
        cache_manager: the application's own async cache, reached as :attr:`cache`.
        use_sync_cache: whether :attr:`cache` is the synchronous adapter of that
            cache, or the async cache itself.
        timeout: seconds after which a call is cancelled; None for no limit.
    """

    def __init__(
        self,
        storage: AsyncHistoryManager | Storage | str | os.PathLike[str] | None = None,
        cache_manager: AsyncCache | None = None,
        use_sync_cache: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        self.manager: AsyncHistoryManager
        if isinstance(storage, AsyncHistoryManager):
            self.manager = storage
        elif isinstance(storage, Storage):
            self.manager = AsyncHistoryManager(storage)
        else:
            self.manager = open_history(storage)
        self.timeout: float | None = timeout
        async_cache = EnhancedCacheManager() if cache_manager is None else cache_manager
        self.cache: SyncCacheAdapter | AsyncCache = (
            SyncCacheAdapter(async_cache) if use_sync_cache else async_cache
        )
        self._lock = threading.Lock()
        self._generation: int | None = None

    append: Final = mirror(AsyncHistoryManager.append)
    replace: Final = mirror(AsyncHistoryManager.replace)
    truncate: Final = mirror(AsyncHistoryManager.truncate)
    pop: Final = mirror(AsyncHistoryManager.pop)
    record_message: Final = mirror(AsyncHistoryManager.record_message)
    record_tool_call: Final = mirror(AsyncHistoryManager.record_tool_call)
    record_llm_request: Final = mirror(AsyncHistoryManager.record_llm_request)
    record_llm_response: Final = mirror(AsyncHistoryManager.record_llm_response)
    record_token_usage: Final = mirror(AsyncHistoryManager.record_token_usage)
    record_cost: Final = mirror(AsyncHistoryManager.record_cost)
    last: Final = mirror(AsyncHistoryManager.last)
    query_history: Final = mirror(AsyncHistoryManager.query_history)
    search: Final = mirror(AsyncHistoryManager.search)
    window: Final = mirror(AsyncHistoryManager.window)
    pending_tool_calls: Final = mirror(AsyncHistoryManager.pending_tool_calls)
    repair: Final = mirror(AsyncHistoryManager.repair)
    save_checkpoint: Final = mirror(AsyncHistoryManager.save_checkpoint)
    get_checkpoint: Final = mirror(AsyncHistoryManager.get_checkpoint)
    list_checkpoints: Final = mirror(AsyncHistoryManager.list_checkpoints)
    create_session: Final = mirror(AsyncHistoryManager.create_session)
    get_session: Final = mirror(AsyncHistoryManager.get_session)
    list_sessions: Final = mirror(AsyncHistoryManager.list_sessions)
    update_session: Final = mirror(AsyncHistoryManager.update_session)
    delete_session: Final = mirror(AsyncHistoryManager.delete_session)
    fork: Final = mirror(AsyncHistoryManager.fork)
    prune: Final = mirror(AsyncHistoryManager.prune)
    erase_user: Final = mirror(AsyncHistoryManager.erase_user)
    get_session_summary: Final = mirror(AsyncHistoryManager.get_session_summary)
    count: Final = mirror(AsyncHistoryManager.count)
    health: Final = mirror(AsyncHistoryManager.health)
    get_token_statistics: Final = mirror(AsyncHistoryManager.get_token_statistics)
    get_cost_statistics: Final = mirror(AsyncHistoryManager.get_cost_statistics)
    get_llm_statistics: Final = mirror(AsyncHistoryManager.get_llm_statistics)
    import_: Final = mirror(AsyncHistoryManager.import_)
    verify: Final = mirror(AsyncHistoryManager.verify)
    backup: Final = mirror(AsyncHistoryManager.backup)

    def export(self, session_id: str | None = None, *, user_id: str | None = None) -> Export:
        """One session, or all, as lines of JSON; to be entered with ``with`` and iterated."""
        export = self._opened().export(session_id, user_id=user_id)
        return Export(export, self.timeout)

    def watch(
        self, session_id: str, *, after_seq: int | None = None, epoch: int | None = None
    ) -> Watch:
        """The records of a session as they are stored, each once; to be entered with ``with``."""
        watch = self._opened().watch(session_id, after_seq=after_seq, epoch=epoch)
        return Watch(watch, self.timeout)

    def get_cache_stats(self) -> CacheStatistics:
        """Hits, misses and size of the history's own cache."""
        return self.manager.get_cache_stats()

    def get_store_stats(self) -> StoreStatistics:
        """How busy the store is: its queue and its commits."""
        return self._opened().get_store_stats()

    def close(self) -> None:
        """Close what this manager opened; async code that uses the same store is not affected."""
        with self._lock:
            generation, self._generation = self._generation, None
            if generation == bridge().generation:
                bridge().close(self.manager)

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> AsyncHistoryManager:
        if self._generation != bridge().generation:
            with self._lock:
                if self._generation != bridge().generation:
                    self._generation = bridge().open(self.manager)
        return self.manager


_default: HistoryManager | None = None
_default_lock = threading.Lock()


def get_history() -> HistoryManager:
    """The process's history at ``ASYNCHISTORY_URL``, or in the user's data folder."""
    global _default
    with _default_lock:
        if _default is None:
            _default = HistoryManager()
        return _default


def safe_async_call(awaitable: Awaitable[T], timeout: float | None = None) -> T:
    """The result of an awaitable, for synchronous code, whether or not a loop is running here.

    Raises:
        TimeoutError: ``timeout`` seconds passed; the coroutine was cancelled.
        LoopThreadError: called in the bridge's own event loop.
    """

    async def work() -> T:
        return await awaitable

    try:
        return bridge().call(work, timeout)
    finally:
        # One that could not be started must not warn that it was never awaited.
        close: Callable[[], Any] | None = getattr(awaitable, "close", None)
        if close is not None:
            close()
