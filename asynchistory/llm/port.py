"""What an LLM instance does, whoever the provider is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import msgspec

from asynchistory.llm.key import ClientKey
from asynchistory.records import JSON, Message, Usage


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as a model is told of it. ``parameters`` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: dict[str, JSON] = {}


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked: the conversation so far, and the tools that it may call."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A model's whole answer.

    Attributes:
        message: the answer, with the tools that it asks for.
        model: the model that answered, as the provider names it.
        finish_reason: why it stopped, in the provider's words.
        usage: tokens, None if the provider does not say.
        request_id: the provider's id of the request.
        response_time: seconds from the request to the end of the answer.
        time_to_first_token: seconds to its first piece; None if it was not streamed.
        attempts: how often the request was sent until it was answered.
    """

    message: Message
    model: str
    finish_reason: str | None = None
    usage: Usage | None = None
    request_id: str | None = None
    response_time: float
    time_to_first_token: float | None = None
    attempts: int = 1


class TextDelta(msgspec.Struct, frozen=True):
    """A piece of the answer's text."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    """A piece of what the model thinks aloud."""

    text: str


#: What a stream gives: pieces, and at its end the whole.
ClientEvent: TypeAlias = TextDelta | ReasoningDelta | Completion


class LLMClient(ABC):
    """One model at one provider, usable from any event loop and thread at once.

    Attributes:
        key: what this instance is for.
    """

    key: ClientKey

    @abstractmethod
    def stream(
        self, request: ChatRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[ClientEvent]]:
        """The answer as it comes; the last event is the :class:`Completion`.

        Leaving the block ends the request and frees its connection.

        Raises:
            LLMError: the model could not be reached, or did not answer well.
        """

    @abstractmethod
    async def complete(self, request: ChatRequest) -> Completion:
        """The whole answer at once.

        Raises:
            LLMError: the model could not be reached, or did not answer well.
        """
