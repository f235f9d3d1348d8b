"""A model that answers offline, from a script. For tests, demos and work on a train."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeAlias

from asynchistory.llm.key import ClientKey
from asynchistory.llm.port import ChatRequest, ClientEvent, Completion, LLMClient, TextDelta
from asynchistory.records import Message, Usage
from asynchistory.runs import checkpoint_if_cancelled

#: Answers with text or a message, to the conversation so far.
Script: TypeAlias = Callable[[Sequence[Message]], Message | str]


def _echo(messages: Sequence[Message]) -> str:
    return f"You said: {messages[-1].text}" if messages else "Hello!"


class ScriptedClient(LLMClient):
    """Answers as its script says, or repeats what it was told.

    Tokens are counted as a quarter of the bytes of text.
    """

    def __init__(self, key: ClientKey, script: Script = _echo) -> None:
        self.key = key
        self._script = script

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncGenerator[AsyncIterator[ClientEvent]]:
        """See :class:`LLMClient`."""
        completion = await self.complete(request)

        async def events() -> AsyncGenerator[ClientEvent, None]:
            for word in _words(completion.message.text):
                await checkpoint_if_cancelled()
                yield TextDelta(word)
            yield completion

        async with aclosing(events()) as stream:
            yield stream

    async def complete(self, request: ChatRequest) -> Completion:
        """See :class:`LLMClient`."""
        await checkpoint_if_cancelled()
        start = time.perf_counter()
        answer = self._script(request.messages)
        message = Message.of("assistant", answer) if isinstance(answer, str) else answer
        sent, received = sum(map(_tokens, request.messages)), _tokens(message)
        return Completion(
            message=message,
            model=self.key.model,
            finish_reason="tool_calls" if message.tool_calls else "stop",
            usage=Usage(input_tokens=sent, output_tokens=received, total_tokens=sent + received),
            response_time=time.perf_counter() - start,
        )


def _words(text: str) -> Iterator[str]:
    first, *rest = text.split(" ")
    if text:
        yield first
        yield from (f" {word}" for word in rest)


def _tokens(message: Message) -> int:
    return -(-len(message.text.encode()) // 4)
