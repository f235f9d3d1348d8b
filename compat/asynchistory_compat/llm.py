"""The synchronous twins of LLMFactory and Conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import asynchistory
from asynchistory import (
    JSON,
    AnyPart,
    ApiKey,
    AsyncHistoryManager,
    Event,
    FactoryStatistics,
    LLMClient,
    default_factory,
)
from asynchistory_compat.bridge import bridge
from asynchistory_compat.history import HistoryManager
from asynchistory_compat.mirror import mirror


class LLMFactory:
    """One LLM instance a configuration, for synchronous code: from any number of threads.

    Args:
        factory: the async factory to share; the process's own if left out.
        timeout: seconds after which a call is cancelled; None for no limit.
    """

    def __init__(
        self, factory: asynchistory.LLMFactory | None = None, *, timeout: float | None = None
    ) -> None:
        self.factory: asynchistory.LLMFactory = default_factory() if factory is None else factory
        self.timeout: float | None = timeout

    def get(
        self,
        /,
        provider: str,
        model: str,
        *,
        temperature: float | None = None,
        base_url: str | None = None,
        api_key: ApiKey = None,
        timeout: float = 60.0,
        **options: JSON,
    ) -> LLMClient:
        """See :meth:`asynchistory.LLMFactory.get`; what is there is given without a loop."""
        api_key, base_url, options = self.factory.sealed(api_key, base_url, options)
        options.update(temperature=temperature, base_url=base_url, api_key=api_key, timeout=timeout)
        found = self.factory.peek_client(provider, model, **options)
        if found is not None:
            return found
        return bridge().call(lambda: self.factory.get(provider, model, **options), self.timeout)

    def get_or_create(self, key: Hashable, create: Callable[[], Awaitable[Any]]) -> Any:
        """The instance of ``key``; ``await create()`` makes it if there is none."""
        found = self.factory.peek(key)
        if found is not None:
            return found
        return bridge().call(lambda: self.factory.get_or_create(key, create), self.timeout)

    def peek(self, key: Hashable) -> Any:
        """The instance of ``key``, None if there is none."""
        return self.factory.peek(key)

    def get_cache_stats(self) -> FactoryStatistics:
        """What the factory has done, and what it holds."""
        return self.factory.get_cache_stats()

    def clear_llm_cache(self) -> int:
        """Forget all instances; returns how many there were."""
        return self.factory.clear_llm_cache()


class Conversation:
    """One conversation with a model, for synchronous code.

    ::

        with Conversation(history, provider="openai", model="gpt-4o") as conversation:
            for event in conversation.send("Hello!"):
                ...

    Args:
        history: a manager of either kind.
        options: those of :class:`asynchistory.Conversation`.
        factory: a factory of either kind; the process's own if left out.
        timeout: seconds after which :meth:`ask` is cancelled; None for no limit.
    """

    def __init__(
        self,
        history: HistoryManager | AsyncHistoryManager,
        *,
        factory: LLMFactory | asynchistory.LLMFactory | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        options = asynchistory.LLMFactory.sealed(None, None, options)[2]  # no traceback shows them
        self._history = history if isinstance(history, HistoryManager) else HistoryManager(history)
        async_factory = factory.factory if isinstance(factory, LLMFactory) else factory
        self.conversation: asynchistory.Conversation = asynchistory.Conversation(
            self._history.manager, factory=async_factory, **options
        )
        self.timeout: float | None = timeout

    @property
    def session_id(self) -> str:
        """The session that is recorded to."""
        return self.conversation.session_id

    @property
    def llm(self) -> LLMClient:
        """The LLM instance, shared with all conversations of this configuration."""
        return self.conversation.llm

    def _opened(self) -> asynchistory.Conversation:
        return self.conversation

    ask: Final = mirror(asynchistory.Conversation.ask)

    def send(self, content: str | Iterable[AnyPart]) -> Iterator[Event]:
        """Say something; the events of the turn as they come.

        Closing the iterator before its end cancels the turn, as leaving the
        loop does once nothing refers to it any more.
        """
        with bridge().entered(self.conversation.send(content)) as events:
            while (event := bridge().call(lambda: anext(events, None))) is not None:
                yield event

    def __enter__(self) -> Self:
        self._history._opened()
        bridge().call(self.conversation.__aenter__, self.timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        bridge().call(lambda: self.conversation.__aexit__(None, None, None))
