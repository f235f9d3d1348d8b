"""asynchistory for synchronous code: the same objects, from any thread, without asyncio.run."""

from __future__ import annotations

import copy
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial, wraps
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

import asynchistory as core
from asynchistory import AsyncHistoryManager, EnhancedCacheManager
from asynchistory_compat.loop import Backend, BlockingInLoopWarning, LoopPolicy, bridge, configure

__all__ = ["Backend", "BlockingInLoopWarning", "Conversation", "HistoryManager", "LLMFactory"]
__all__ += ["LoopPolicy", "Stream", "SyncCacheAdapter", "Twin", "Watch", "configure", "direct"]
__all__ += ["get_history", "mirror", "safe_async_call"]

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Twin(Generic[A]):
    """The synchronous form of an async object, its ``target``.

    After ``timeout`` seconds a call is cancelled and raises ``TimeoutError``; None: no limit.
    """

    def __init__(self, target: A, timeout: float | None = None) -> None:
        self.target: A = target
        self.timeout: float | None = timeout

    def with_timeout(self, timeout: float | None) -> Self:
        """The same twin with another timeout."""
        twin = copy.copy(self)
        twin.timeout = timeout
        return twin

    def opened(self) -> A:
        """The target, open."""
        return self.target


def _hide(options: dict[str, Any]) -> Any:
    """The same, in a dict whose values no traceback shows: some may be secret."""
    return core.LLMFactory.sealed(None, None, options)[2]


def mirror(
    function: Callable[Concatenate[A, P], Awaitable[T]],
    peek: Callable[Concatenate[A, P], T | None] | None = None,
) -> Callable[Concatenate[Any, P], T]:
    """The synchronous form of an async method. What ``peek`` finds needs no event loop."""

    @wraps(function)
    def call(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        hidden = _hide(kwargs) if kwargs else kwargs
        del kwargs
        target = self.opened()
        if peek is not None and (found := peek(target, *args, **hidden)) is not None:
            return found
        method: Callable[P, Awaitable[T]] = getattr(target, function.__name__)
        return bridge.call(lambda: method(*args, **hidden), self.timeout)

    return call


def direct(function: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A method that is synchronous already."""

    @wraps(function)
    def call(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(self.opened(), *args, **kwargs)

    return call


class Stream(Twin[A], Generic[A, T]):
    """An async stream for a ``with`` block and a ``for`` loop, or for a ``for`` loop alone.

    It is read up to 64 items ahead. Its timeout is that of each wait, after which one can go on.
    """

    _home: object = None
    _over = False

    def __init__(self, target: Any, timeout: float | None = None) -> None:
        super().__init__(target, timeout)
        self._source: core.ReadAhead[T] = core.ReadAhead(target)
        self._items: list[T] = []

    def __enter__(self) -> Self:
        bridge.call(lambda: self._source.open(bridge.tasks), self.timeout, where="home")
        self._home = bridge.token
        return self

    def __exit__(self, *exc: object) -> None:
        self._items.clear()
        if self._home is not None and self._home is bridge.token:
            self._home = None
            bridge.call(self._source.aclose, where="leaving")

    def __iter__(self) -> Self:
        return self if self._over or self._home else self.__enter__()

    def __next__(self) -> T:
        if not self._items and not self._over:
            if self._home is None or self._home is not bridge.token:
                raise core.NotOpenError("a stream is read inside its `with` block")
            self._items = bridge.call(self._source.take, self.timeout, where="home")[::-1]
            self._over = not self._items
        if self._over:
            self.__exit__()
            raise StopIteration
        return self._items.pop()

    def __del__(self) -> None:
        if self._home is not None and self._home is bridge.token:
            with suppress(RuntimeError):  # a finalizer runs anywhere, and so must not wait
                bridge.soon(self._source.drop)


class Watch(Stream[core.Watch, core.StoredRecord]):
    """A session's records as they are stored; made by :meth:`HistoryManager.watch`."""

    _last: core.StoredRecord | None = None

    @property
    def epoch(self) -> int:
        """The session's epoch, from when the watch was entered."""
        return self.target.epoch

    @property
    def seq(self) -> int:
        """The record handed out last, or the one to begin after."""
        return self.target.after_seq if self._last is None else self._last.seq

    def __next__(self) -> core.StoredRecord:
        self._last = super().__next__()
        return self._last


class SyncCacheAdapter(Twin[core.AsyncCache]):
    """An async cache for synchronous code. Errors are raised; a call takes 5 seconds at most."""

    def __init__(self, async_cache: core.AsyncCache, timeout: float | None = 5.0) -> None:
        super().__init__(async_cache, timeout)

    get: Final = mirror(EnhancedCacheManager.get)
    set: Final = mirror(EnhancedCacheManager.set)
    remove: Final = mirror(EnhancedCacheManager.remove)
    remove_by_pattern: Final = mirror(EnhancedCacheManager.remove_by_pattern)
    clear: Final = mirror(EnhancedCacheManager.clear)
    cleanup_expired: Final = mirror(EnhancedCacheManager.cleanup_expired)
    get_or_set: Final = mirror(EnhancedCacheManager.get_or_set)
    peek: Final = direct(EnhancedCacheManager.peek)
    get_stats: Final = direct(EnhancedCacheManager.get_stats)
    get_cache_info: Final = direct(EnhancedCacheManager.get_cache_info)


class HistoryManager(Twin[AsyncHistoryManager]):
    """History for synchronous code: the same object that async code awaits, from any thread.

    It opens at first use and closes with the process, or at the end of a ``with`` block.

    Args:
        storage: an :class:`asynchistory.AsyncHistoryManager` to share, a
            store, or a URL or path as :func:`asynchistory.open_history` takes.
        cache_manager: the application's own async cache, reached as :attr:`cache`.
        use_sync_cache: whether :attr:`cache` is its synchronous adapter, or the cache itself.
        timeout: see :class:`Twin`.
    """

    def __init__(
        self,
        storage: AsyncHistoryManager | core.Storage | str | os.PathLike[str] | None = None,
        cache_manager: core.AsyncCache | None = None,
        use_sync_cache: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        if isinstance(storage, core.Storage):
            storage = AsyncHistoryManager(storage)
        elif not isinstance(storage, AsyncHistoryManager):
            storage = core.open_history(storage)
        super().__init__(storage, timeout)
        cache = EnhancedCacheManager() if cache_manager is None else cache_manager
        self.cache: Any = SyncCacheAdapter(cache) if use_sync_cache else cache
        self._key = object()  # by which the bridge knows that this twin is open, or a copy of it

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
    last: Final = mirror(AsyncHistoryManager.last, AsyncHistoryManager.peek)
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
    peek: Final = direct(AsyncHistoryManager.peek)
    get_cache_stats: Final = direct(AsyncHistoryManager.get_cache_stats)
    get_store_stats: Final = direct(AsyncHistoryManager.get_store_stats)

    def export(
        self, session_id: str | None = None, *, user_id: str | None = None
    ) -> Stream[core.Export, bytes]:
        """One session, or all, as lines of JSON."""
        return Stream(self.opened().export(session_id, user_id=user_id), self.timeout)

    def watch(
        self, session_id: str, *, after_seq: int | None = None, epoch: int | None = None
    ) -> Watch:
        """The records of a session as they are stored, each once."""
        watch = self.opened().watch(session_id, after_seq=after_seq, epoch=epoch)
        return Watch(watch, self.timeout)

    def opened(self) -> AsyncHistoryManager:
        """The manager, opened for this twin until :meth:`close`."""
        if self._key not in bridge.opened:
            bridge.call(self._open, self.timeout, where="home")
        return self.target

    def close(self) -> None:
        """Close what this twin opened; others who use the same store are not affected."""
        if self._key in bridge.opened:
            bridge.call(self._close, where="leaving")

    async def _open(self) -> None:
        await self.target.__aenter__()
        await self._close()  # if another thread was first
        bridge.opened[self._key] = self.target

    async def _close(self) -> None:
        if bridge.opened.pop(self._key, None) is not None:
            await self.target.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        self.opened()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LLMFactory(Twin[core.LLMFactory]):
    """One LLM instance a configuration, for synchronous code; in the process's factory if none."""

    def __init__(
        self, factory: core.LLMFactory | None = None, *, timeout: float | None = None
    ) -> None:
        super().__init__(core.default_factory() if factory is None else factory, timeout)

    get: Final = mirror(core.LLMFactory.get, core.LLMFactory.peek_client)
    sealed: Final = staticmethod(core.LLMFactory.sealed)
    get_or_create: Final = mirror(core.LLMFactory.get_or_create)
    aclose: Final = mirror(core.LLMFactory.aclose)
    http_client: Final = direct(core.LLMFactory.http_client)
    peek: Final = direct(core.LLMFactory.peek)
    peek_client: Final = direct(core.LLMFactory.peek_client)
    get_cache_stats: Final = direct(core.LLMFactory.get_cache_stats)
    clear_llm_cache: Final = direct(core.LLMFactory.clear_llm_cache)


def _like(
    function: Callable[Concatenate[Any, AsyncHistoryManager, P], None],
) -> Callable[[Any], Callable[Concatenate[Any, HistoryManager | AsyncHistoryManager, P], None]]:
    """Give a twin's constructor the signature of the async one."""
    return wraps(function)


class Conversation(Twin[core.Conversation]):
    """One conversation with a model: the arguments of the async one, with a manager of any kind.

    ::

        with Conversation(history, provider="openai", model="gpt-4o") as conversation:
            for event in conversation.send("Hello!"):
                ...
    """

    @_like(core.Conversation.__init__)
    def __init__(self, history: Any, *, factory: Any = None, **options: Any) -> None:
        options = _hide(options)
        self._history = history if isinstance(history, HistoryManager) else HistoryManager(history)
        options["factory"] = factory.target if isinstance(factory, Twin) else factory
        super().__init__(core.Conversation(self._history.target, **options))
        self.session_id: str = self.target.session_id
        self._owned = self._history is not history

    ask: Final = mirror(core.Conversation.ask)

    @property
    def llm(self) -> core.LLMClient:
        """The LLM instance, shared with all conversations of this configuration."""
        return self.target.llm

    def send(self, content: str | Iterable[core.AnyPart]) -> Stream[Any, core.Event]:
        """Say something; the events of the turn as they come. Leaving early cancels the turn."""
        return Stream(self.target.send(content), self.timeout)

    def __enter__(self) -> Self:
        self._history.opened()
        bridge.call(self.target.__aenter__, self.timeout)
        return self

    def __exit__(self, *exc: object) -> None:
        bridge.call(partial(self.target.__aexit__, None, None, None), where="leaving")
        if self._owned:
            self._history.close()


_shared: dict[str, HistoryManager] = {}


def get_history() -> HistoryManager:
    """The process's history at ``ASYNCHISTORY_URL``, or in the user's data folder."""
    return _shared.get("") or _shared.setdefault("", HistoryManager())


def safe_async_call(awaitable: Awaitable[T], timeout: float | None = None) -> T:
    """The result of an awaitable, whether or not an event loop is running in this thread.

    After ``timeout`` seconds it is cancelled, and this raises ``TimeoutError``.
    """

    async def work() -> T:
        return await awaitable

    try:
        return bridge.call(work, timeout)
    finally:
        # One that could not be started must not warn that it was never awaited.
        if iscoroutine(awaitable) and getcoroutinestate(awaitable) == CORO_CREATED:
            awaitable.close()
