"""The six ``record_*`` methods: one record each, made from plain arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypedDict, TypeVar, Unpack
from uuid import uuid4

from msgspec.structs import replace

from asynchistory.codec import Row, from_microseconds
from asynchistory.errors import InvalidRecordError
from asynchistory.queries import Appended
from asynchistory.records import (
    JSON,
    AnyPart,
    AnyRecord,
    Checkpoint,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    ToolCall,
    Usage,
    money,
)

R = TypeVar("R", Message, ToolCall, LLMRequest, LLMResponse, TokenUsage, Cost, Checkpoint)


class WriteOptions(TypedDict, total=False):
    """What every ``record_*`` method takes besides.

    Attributes:
        metadata: the application's own JSON, kept with the record.
        timestamp: when it happened, with a time zone; now if left out.
        idempotency_key: the same key and content is stored once, however often it is tried.
        expected_seq: refuse unless this is the session's newest seq.
    """

    metadata: dict[str, JSON]
    timestamp: datetime
    idempotency_key: str
    expected_seq: int


class Recording(ABC):
    """What records one thing at a time; see :class:`asynchistory.AsyncHistoryManager`."""

    @abstractmethod
    async def _store(
        self,
        session_id: str,
        records: Sequence[AnyRecord],
        idempotency_key: str | None,
        expected_seq: int | None,
    ) -> tuple[Appended, Sequence[Row]]:
        """Append records; returns where they stand, and their rows."""

    @abstractmethod
    async def _at(self, session_id: str, appended: Appended, record: R) -> R | None:
        """The record as an earlier call stored it, if it is still there."""

    async def record_message(
        self,
        session_id: str,
        role: str,
        content: str | Iterable[AnyPart],
        *,
        name: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> Message:
        """Store a message and return it as stored. ``content`` is text or parts."""
        return await self._record(session_id, Message.of(role, content, name=name), options)

    async def record_tool_call(
        self,
        session_id: str,
        name: str,
        *,
        input: JSON = None,
        output: JSON = None,
        error: str | None = None,
        duration: float | None = None,
        call_id: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> ToolCall:
        """Store one run of a tool and return it as stored. ``duration`` is in seconds."""
        record = ToolCall(
            name=name, input=input, output=output, error=error, duration=duration, call_id=call_id
        )
        return await self._record(session_id, record, options)

    async def record_llm_request(
        self,
        session_id: str,
        *,
        provider: str,
        model: str,
        request_id: str | None = None,
        parameters: dict[str, JSON] | None = None,
        from_seq: int | None = None,
        to_seq: int | None = None,
        estimated_tokens: int | None = None,
        **options: Unpack[WriteOptions],
    ) -> LLMRequest:
        """Store a request to a model and return it as stored.

        Give its ``request_id`` to the response, usage and cost that belong to
        it, so that the call is counted once.
        """
        if request_id is None:
            # A retry with the same key must be the same content.
            request_id = options.get("idempotency_key") or uuid4().hex
        record = LLMRequest(
            request_id=request_id,
            provider=provider,
            model=model,
            parameters=parameters or {},
            from_seq=from_seq,
            to_seq=to_seq,
            estimated_tokens=estimated_tokens,
        )
        return await self._record(session_id, record, options)

    async def record_llm_response(
        self,
        session_id: str,
        *,
        request_id: str,
        provider: str,
        model: str,
        content: JSON = None,
        finish_reason: str | None = None,
        usage: Usage | None = None,
        response_time: float | None = None,
        time_to_first_token: float | None = None,
        **options: Unpack[WriteOptions],
    ) -> LLMResponse:
        """Store a model's response and return it as stored. Times are in seconds."""
        record = LLMResponse(
            request_id=request_id,
            provider=provider,
            model=model,
            content=content,
            finish_reason=finish_reason,
            usage=usage,
            response_time=response_time,
            time_to_first_token=time_to_first_token,
        )
        return await self._record(session_id, record, options)

    async def record_token_usage(
        self,
        session_id: str,
        *,
        request_id: str,
        provider: str,
        model: str,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        total_tokens: int | None = None,
        cached_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        source: str | None = None,
        confidence: float | None = None,
        **options: Unpack[WriteOptions],
    ) -> TokenUsage:
        """Store the tokens of a call and return them as stored. None is unknown."""
        record = TokenUsage(
            request_id=request_id,
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=total_tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=reasoning_tokens,
            source=source,
            confidence=confidence,
        )
        return await self._record(session_id, record, options)

    async def record_cost(
        self,
        session_id: str,
        *,
        request_id: str,
        provider: str,
        model: str,
        input_cost: Decimal | str | float | None = None,
        output_cost: Decimal | str | float | None = None,
        total_cost: Decimal | str | float | None = None,
        currency: str = "USD",
        price_source: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> Cost:
        """Store what a call cost and return it as stored. None is unknown, which is not 0."""
        record = Cost(
            request_id=request_id,
            provider=provider,
            model=model,
            input_cost=_money(input_cost),
            output_cost=_money(output_cost),
            total_cost=_money(total_cost),
            currency=currency,
            price_source=price_source,
        )
        return await self._record(session_id, record, options)

    async def _record(self, session_id: str, record: R, options: WriteOptions) -> R:
        record = replace(
            record, metadata=options.get("metadata", {}), timestamp=options.get("timestamp")
        )
        key, expected = options.get("idempotency_key"), options.get("expected_seq")
        appended, [row] = await self._store(session_id, (record,), key, expected)
        stored = replace(
            record,
            seq=appended.first_seq,
            session_id=session_id,
            record_id=row.record_id.hex(),
            timestamp=from_microseconds(row.timestamp),
        )
        if not appended.replayed:
            return stored
        return await self._at(session_id, appended, record) or stored


def _money(amount: Decimal | str | float | None) -> Decimal | None:
    try:
        return None if amount is None else money(amount)
    except ValueError as error:
        raise InvalidRecordError(str(error)) from None
