"""One turn of a conversation: ask the model, run the tools it asks for, until it has answered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asynchistory.errors import LLMError, LLMResponseError
from asynchistory.llm.port import (
    ChatRequest,
    Completion,
    LLMClient,
    ReasoningDelta,
    TextDelta,
)
from asynchistory.llm.prices import PriceOf, by_list, by_price
from asynchistory.manager import AsyncHistoryManager
from asynchistory.manager.fitting import interruptions, sendable
from asynchistory.manager.tokens import estimate_tokens
from asynchistory.queries import MAX_PAGE, HistoryQuery
from asynchistory.records import (
    JSON,
    AnyPart,
    AnyRecord,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from asynchistory.runs import task_group
from asynchistory.tools import Tool

#: Characters of a tool's error that the model is told.
MAX_ERROR_TEXT = 2000


class ToolCallEvent(msgspec.Struct, frozen=True):
    """The model asks for a tool, which is running now."""

    call: ToolCallPart


class ToolResultEvent(msgspec.Struct, frozen=True):
    """A tool has ended; ``result`` is what the model is told."""

    call: ToolCallPart
    result: ToolResultPart


class UsageEvent(msgspec.Struct, frozen=True):
    """What one call to the model took. ``cost`` is None where it is unknown."""

    usage: Usage
    cost: Cost | None = None


class DoneEvent(msgspec.Struct, frozen=True):
    """The turn has ended, with this answer."""

    message: Message


#: What a turn gives, in order.
Event: TypeAlias = (
    TextDelta | ReasoningDelta | ToolCallEvent | ToolResultEvent | UsageEvent | DoneEvent
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the turns of a conversation have in common."""

    history: AsyncHistoryManager
    session_id: str
    llm: LLMClient
    tools: dict[str, Tool]
    price: PriceOf | None
    max_rounds: int


class _Run:
    """One tool at work."""

    def __init__(self, call: ToolCallPart) -> None:
        self.call = call
        self.ended = anyio.Event()
        self.input: JSON = None
        self.output: JSON = None
        self.error: str | None = None
        self.duration = 0.0

    async def run(self, tools: dict[str, Tool]) -> None:
        start = time.perf_counter()
        try:
            self.input = _arguments(self.call)
            tool = tools.get(self.call.name)
            if tool is None:
                raise LookupError(f"there is no tool {self.call.name!r}")
            self.output = await tool.run(self.input)
        except Exception as error:
            # Told to the model, which may do better, and recorded.
            self.error = _describe(error)
        self.duration = time.perf_counter() - start
        self.ended.set()

    def records(self) -> tuple[Message, ToolCall]:
        answer = self.output if self.error is None else self.error
        part = ToolResultPart(
            id=self.call.id,
            result=answer,
            name=self.call.name,
            is_error=self.error is not None,
        )
        record = ToolCall(
            name=self.call.name,
            input=self.input,
            output=self.output,
            error=self.error,
            duration=self.duration,
            call_id=self.call.id,
        )
        return Message(role="tool", parts=(part,)), record


class Turn:
    """One turn. :meth:`run` is its task; what it gives comes through :meth:`events`."""

    def __init__(self, setting: Setting, send: MemoryObjectSendStream[Event]) -> None:
        self._setting = setting
        self._send = send
        self._messages: list[Message] = []
        self._from_seq = 0
        self._to_seq = 0
        self._error: Exception | None = None

    async def run(self, content: str | Iterable[AnyPart]) -> None:
        """Take the turn. An error is kept for who reads the events."""
        async with self._send:
            try:
                await self._take(content)
            except Exception as error:
                self._error = error

    async def events(
        self, receive: MemoryObjectReceiveStream[Event]
    ) -> AsyncGenerator[Event, None]:
        """What happens, as it happens; raises the turn's error at its end."""
        async for event in receive:
            yield event
        self.check()

    def check(self) -> None:
        """Raise the turn's error, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _take(self, content: str | Iterable[AnyPart]) -> None:
        question = Message.of("user", content)
        await self._load()
        # What an earlier turn, cut short, has left open is closed in the same batch.
        await self._append(*interruptions(self._messages), question)
        for _ in range(self._setting.max_rounds):
            completion = await self._ask()
            calls = completion.message.tool_calls
            if not calls:
                await self._send.send(DoneEvent(completion.message))
                return
            await self._run_tools(calls)
        raise LLMResponseError(
            f"the model asked for tools {self._setting.max_rounds} times without an answer; "
            "raise max_rounds if that is as it should be",
            provider=self._setting.llm.key.provider,
        )

    # -- the history

    async def _load(self) -> None:
        """The messages so far."""
        cursor = None
        while True:
            page = await self._setting.history.query_history(
                HistoryQuery(
                    self._setting.session_id,
                    record_types=("message",),
                    limit=MAX_PAGE,
                    after=cursor,
                )
            )
            self._messages += [record for record in page if isinstance(record, Message)]
            cursor = page.next
            if cursor is None:
                break
        if self._messages:
            self._from_seq = self._messages[0].seq

    async def _append(self, *records: AnyRecord) -> None:
        appended = await self._setting.history.append(self._setting.session_id, *records)
        self._messages += [record for record in records if isinstance(record, Message)]
        self._from_seq = self._from_seq or appended.first_seq
        self._to_seq = appended.last_seq

    # -- the model

    async def _ask(self) -> Completion:
        llm = self._setting.llm
        request_id = uuid4().hex
        await self._append(self._request_record(request_id))
        request = ChatRequest(
            messages=tuple(sendable(self._messages)),
            tools=tuple(tool.spec for tool in self._setting.tools.values()),
        )
        completion = None
        try:
            async with llm.stream(request) as events:
                async for event in events:
                    if isinstance(event, Completion):
                        completion = event
                    else:
                        await self._send.send(event)
        except LLMError as error:
            await self._append(self._failure_record(request_id, error))
            raise
        if completion is None:
            raise LLMResponseError("the model gave no answer", provider=llm.key.provider)
        await self._record_answer(request_id, completion)
        return completion

    def _request_record(self, request_id: str) -> LLMRequest:
        key = self._setting.llm.key
        return LLMRequest(
            request_id=request_id,
            provider=key.provider,
            model=key.model,
            parameters={} if key.temperature is None else {"temperature": key.temperature},
            from_seq=self._from_seq,
            to_seq=self._to_seq,
            estimated_tokens=sum(map(estimate_tokens, self._messages)),
        )

    def _failure_record(self, request_id: str, error: LLMError) -> LLMResponse:
        key = self._setting.llm.key
        return LLMResponse(
            request_id=request_id,
            provider=key.provider,
            model=key.model,
            finish_reason="error",
            metadata={
                "error": type(error).__name__,
                "status": error.status,
                **_retried(error),
            },
        )

    async def _record_answer(self, request_id: str, completion: Completion) -> None:
        """The answer and what is known of its call, in one batch."""
        key = self._setting.llm.key
        call: dict[str, Any] = {
            "request_id": request_id,
            "provider": key.provider,
            "model": key.model,
        }
        records: list[AnyRecord] = [
            completion.message,
            # Its content is the message right before it.
            LLMResponse(
                **call,
                finish_reason=completion.finish_reason,
                usage=completion.usage,
                response_time=completion.response_time,
                time_to_first_token=completion.time_to_first_token,
                metadata={
                    "model": completion.model,
                    "request_id": completion.request_id,
                    **_retried(completion),
                },
            ),
        ]
        usage = completion.usage
        if usage is None:
            await self._append(*records)
            return
        counted = {name: getattr(usage, name) for name in usage.__struct_fields__}
        records.append(TokenUsage(**call, **counted, source="provider"))
        cost = await self._cost(call, completion)
        if cost is not None:
            records.append(cost)
        await self._append(*records)
        await self._send.send(UsageEvent(usage, cost))

    async def _cost(self, call: dict[str, Any], completion: Completion) -> Cost | None:
        key, price_of, usage = self._setting.llm.key, self._setting.price, completion.usage
        assert usage is not None, "there is a cost only where there is a usage"
        if price_of is None:
            amounts = await by_list(key, completion.model, usage)
        else:
            price = price_of(key.provider, key.model)
            amounts = by_price(price, usage) if price is not None else None
        return Cost(**call, **msgspec.structs.asdict(amounts)) if amounts is not None else None

    # -- the tools

    async def _run_tools(self, calls: Sequence[ToolCallPart]) -> None:
        """Run them at the same time; record and tell their results in the order of the calls."""
        runs = [_Run(call) for call in calls]
        async with task_group() as group:
            for run in runs:
                await self._send.send(ToolCallEvent(run.call))
                group.start_soon(run.run, self._setting.tools)
            for run in runs:
                await run.ended.wait()
                message, record = run.records()
                await self._append(message, record)
                [result] = message.tool_results
                await self._send.send(ToolResultEvent(run.call, result))


def _retried(outcome: Completion | LLMError) -> dict[str, JSON]:
    """How often a request was sent, where that was more than once."""
    return {"attempts": outcome.attempts} if outcome.attempts > 1 else {}


def _describe(error: Exception) -> str:
    """An error as the model is told it, which pays for it by length."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return text[:MAX_ERROR_TEXT].encode("utf-8", "replace").decode()


def _arguments(call: ToolCallPart) -> JSON:
    arguments = call.parsed()
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool must be a JSON object")
    return arguments
