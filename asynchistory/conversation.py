"""Conversation: a prompt in, streamed events out, everything recorded as it happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import anyio

from asynchistory.errors import (
    ConfigurationError,
    LLMResponseError,
    NotOpenError,
    SequenceConflictError,
)
from asynchistory.llm.factory import DEFAULT_TIMEOUT, LLMFactory, default_factory
from asynchistory.llm.key import ApiKey, hidden
from asynchistory.llm.port import LLMClient
from asynchistory.manager import AsyncHistoryManager
from asynchistory.records import JSON, AnyPart, Message
from asynchistory.runs import task_group
from asynchistory.tools import Tool
from asynchistory.turn import DoneEvent, Event, PriceOf, Setting, Turn


class Conversation:
    """One conversation with a model: asked, answered and recorded.

    Entering it gets the LLM instance and makes the session::

        async with Conversation(history, provider="openai", model="gpt-4o") as conversation:
            async with conversation.send("Hello!") as events:
                async for event in events:
                    ...

    Args:
        history: where it is recorded.
        provider: see :meth:`LLMFactory.get`, as for the other arguments of that name.
        model: the model's name.
        factory: where the LLM instance comes from; the process's own if left out.
        session_id: the session to go on with, or to make; a new one if left out.
        user_id: its owner.
        options: further fields of each request to the model, such as ``{"seed": 1}``.
        prompt: the system prompt of a session that is new.
        tools: functions that the model may call, see :class:`Tool`.
        price: gives the price of tokens by provider and model.
        max_rounds: how often the model is asked in one turn at most.
    """

    def __init__(
        self,
        history: AsyncHistoryManager,
        *,
        provider: str,
        model: str,
        factory: LLMFactory | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        temperature: float | None = None,
        base_url: str | None = None,
        api_key: ApiKey = None,
        timeout: float = DEFAULT_TIMEOUT,
        options: Mapping[str, JSON] | None = None,
        prompt: str | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        price: PriceOf | None = None,
        max_rounds: int = 10,
    ) -> None:
        self.history: AsyncHistoryManager = history
        self.factory: LLMFactory = default_factory() if factory is None else factory
        self.provider: str = provider
        self.model: str = model
        self.session_id: str = uuid4().hex if session_id is None else session_id
        self.user_id: str | None = user_id
        self._temperature = temperature
        self._endpoint: dict[str, Any] = {
            "base_url": base_url,
            "api_key": hidden(api_key),
            "timeout": timeout,
            **(options or {}),
        }
        self._prompt = prompt
        made = [tool if isinstance(tool, Tool) else Tool(tool) for tool in tools]
        self._tools: dict[str, Tool] = {tool.spec.name: tool for tool in made}
        if len(self._tools) < len(made):
            names = [tool.spec.name for tool in made]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(f"two tools have the name {twice!r}; give one another name")
        self._price = price
        self._max_rounds = max_rounds
        self._llm: LLMClient | None = None

    async def __aenter__(self) -> Self:
        self._llm = await self.factory.get(
            self.provider, self.model, temperature=self._temperature, **self._endpoint
        )
        session = await self.history.create_session(
            self.session_id, user_id=self.user_id, exist_ok=True
        )
        if session.seq == 0 and self._prompt is not None:
            with suppress(SequenceConflictError):  # somebody else has begun it just now
                await self.history.record_message(
                    self.session_id, "system", self._prompt, expected_seq=0
                )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._llm = None  # it is the factory's

    @property
    def llm(self) -> LLMClient:
        """The LLM instance, shared with all conversations of this configuration."""
        if self._llm is None:
            raise NotOpenError("the conversation is not open; use `async with` around its use")
        return self._llm

    @asynccontextmanager
    async def send(self, content: str | Iterable[AnyPart]) -> AsyncGenerator[AsyncIterator[Event]]:
        """Say something; the events of the turn as they come, :class:`DoneEvent` last.

        Leaving the block before the end cancels the turn. What was recorded by
        then stays, and the next turn can go on from it.

        Raises:
            LLMError: the model could not be reached, or did not answer well.
            StorageError: something could not be recorded.
        """
        setting = Setting(
            history=self.history,
            session_id=self.session_id,
            llm=self.llm,
            tools=self._tools,
            price=self._price,
            max_rounds=self._max_rounds,
        )
        send, receive = anyio.create_memory_object_stream[Event](16)
        turn = Turn(setting, send)
        async with task_group() as group, receive, send:
            group.start_soon(turn.run, content)
            async with aclosing(turn.events(receive)) as events:
                yield events
            group.cancel_scope.cancel()
        turn.check()

    async def ask(self, content: str | Iterable[AnyPart]) -> Message:
        """Say something and wait for the answer.

        Raises:
            LLMError: the model could not be reached, or did not answer well.
        """
        async with self.send(content) as events:
            async for event in events:
                if isinstance(event, DoneEvent):
                    return event.message
        raise LLMResponseError("the turn ended without an answer", provider=self.provider)
