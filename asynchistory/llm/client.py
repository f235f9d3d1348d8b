"""What all clients over HTTP have in common: sending, trying again, reading streams."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from copy import copy
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple

import anyio
import msgspec

from asynchistory.errors import (
    ConfigurationError,
    LLMError,
    LLMResponseError,
)
from asynchistory.llm.http import (
    HTTPError,
    Request,
    Response,
    http_client,
    post,
    read_on,
    unwind,
)
from asynchistory.llm.key import ClientKey, GiveKey, secret_of
from asynchistory.llm.port import (
    ChatRequest,
    ClientEvent,
    Completion,
    LLMClient,
    ReasoningDelta,
    TextDelta,
)
from asynchistory.llm.problems import facts, problem, refusal, request_id
from asynchistory.llm.retries import MAX_RETRIES, wait_before_retry
from asynchistory.llm.sse import EventParser
from asynchistory.records import JSON, Message, Usage
from asynchistory.validation import MAX_TOKENS


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's answer says, taken out of its format."""

    message: Message
    model: str | None
    finish_reason: str | None
    usage: Usage | None


class Assembler(ABC):
    """Puts an answer together from the events of its stream.

    Attributes:
        begun: whether the model has said something.
        done: whether the last event was there.
    """

    begun: bool = False
    done: bool = False

    @abstractmethod
    def take(self, event: bytes) -> list[TextDelta | ReasoningDelta]:
        """What an event adds to what is said.

        Raises:
            ErrorEvent: it reports an error.
        """

    @abstractmethod
    def answer(self) -> Answer:
        """The whole."""


class ErrorEvent(Exception):
    """An event that reports an error; ``body`` is the error as the provider writes it."""

    def __init__(self, error: Any) -> None:
        super().__init__("an error came in the stream")
        self.body: dict[str, Any] = {"error": error}


class _Payload(bytes):
    """A request's body, of which a traceback that shows variables shows the size alone."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class _WithoutData:
    """Cuts errors off from the frames that hold an answer's data, which may quote the key.

    What logs tracebacks with their local variables would log it.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, LLMError):
            raise error.with_traceback(None)


_WITHOUT_DATA = _WithoutData()


class _Call(NamedTuple):
    """A request that is being answered."""

    response: Response
    start: float
    attempts: int


class HTTPClient(LLMClient):
    """A model behind an API over HTTP.

    Args:
        key: what it is for.
        api_key: gives the secret of the moment; None sends none.
        timeout: seconds to wait for each piece of an answer.
        options: further fields of each request, such as ``{"seed": 1}``. ``max_retries`` is not
            sent: it says how often a request is sent again at most.
        pause: waits for some seconds before a request is sent again.
    """

    def __init__(
        self,
        key: ClientKey,
        *,
        api_key: GiveKey,
        timeout: float = 60.0,
        options: dict[str, JSON] | None = None,
        pause: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.key = key
        self._url = ""  # a repr may be asked for before it is checked
        self._options = copy(options or {})
        self._max_retries = self._own_option("max_retries", MAX_RETRIES, least=0)
        self._configure()
        self._url = self._address()
        self._api_key = api_key
        self._http = http_client(timeout)
        self._pause = pause

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key.model} at {self._url}>"

    # -- what each format does its own way

    def _configure(self) -> None:
        """Take out of the options what configures the client and is no field of a request."""

    @abstractmethod
    def _address(self) -> str:
        """The URL that requests go to."""

    @abstractmethod
    def _headers(self, secret: str) -> dict[str, str]:
        """The headers of a request; ``secret`` is "" where there is none."""

    @abstractmethod
    def _body(self, request: ChatRequest, *, streamed: bool) -> dict[str, Any]:
        """A request's JSON."""

    @abstractmethod
    def _answer(self, data: dict[str, Any]) -> Answer:
        """What an answer in one piece says."""

    @abstractmethod
    def _assembler(self) -> Assembler:
        """What takes in the events of an answer."""

    # -- asking

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncGenerator[AsyncIterator[ClientEvent]]:
        """See :class:`LLMClient`."""
        async with (
            self._send(self._payload(request, streamed=True)) as call,
            aclosing(self._events(call)) as events,
        ):
            yield events

    async def complete(self, request: ChatRequest) -> Completion:
        """See :class:`LLMClient`."""
        async with self._send(self._payload(request, streamed=False)) as call:
            with _WITHOUT_DATA:
                return await self._whole(call)

    async def _whole(self, call: _Call) -> Completion:
        with problem(self.key.provider, call.response):
            data = msgspec.json.decode(await call.response.aread(), type=dict[str, Any])
            return self._completion(call, self._answer(data))

    def _completion(
        self, call: _Call, answer: Answer, end: float | None = None, first: float | None = None
    ) -> Completion:
        end = end or time.perf_counter()
        return Completion(
            message=answer.message,
            model=answer.model or self.key.model,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            request_id=request_id(call.response),
            response_time=end - call.start,
            time_to_first_token=None if first is None else first - call.start,
            attempts=call.attempts,
        )

    # -- sending

    def _payload(self, request: ChatRequest, *, streamed: bool) -> _Payload:
        return _Payload(msgspec.json.encode(self._body(request, streamed=streamed)))

    @asynccontextmanager
    async def _send(self, content: _Payload) -> AsyncGenerator[_Call]:
        # What the block raises is the caller's own: only the steps here are looked at.
        start = time.perf_counter()
        call = await self._until_answered(content, start)
        try:
            yield call
        finally:
            await call.response.aclose()

    async def _until_answered(self, content: _Payload, start: float) -> _Call:
        for attempt in count(1):
            try:
                return _Call(await self._try(content), start, attempt)
            except LLMError as error:
                error.attempts = attempt
                wait = wait_before_retry(error, self._max_retries)
                if wait is None:
                    raise
            await self._pause(wait)
        raise AssertionError  # pragma: no cover - count() has no end

    async def _try(self, content: _Payload) -> Response:
        with problem(self.key.provider):
            response = await self._http.send(await self._request(content), stream=True)
        if response.status_code == 200:
            return response
        try:
            raise await self._refusal(response)
        finally:
            await response.aclose()

    async def _refusal(self, response: Response) -> LLMError:
        # Made here and raised elsewhere: the answer may quote the key.
        with problem(self.key.provider, response):
            answer = await response.aread()
        return refusal(self.key.provider, response, answer)

    async def _request(self, content: _Payload) -> Request:
        secret = await secret_of(self._api_key, self.key.provider)
        headers = {"content-type": "application/json", **self._headers(secret)}
        return post(self._http, self._url, content, headers)

    # -- reading a stream

    async def _events(self, call: _Call) -> AsyncGenerator[ClientEvent, None]:
        with _WITHOUT_DATA:
            async with aclosing(self._read(call)) as events:
                async for event in events:
                    yield event

    async def _read(self, call: _Call) -> AsyncGenerator[ClientEvent, None]:
        assembler, parser, first = self._assembler(), EventParser(), None
        with problem(self.key.provider, call.response):
            chunks = call.response.aiter_bytes()
            try:
                async for chunk in chunks:
                    for piece in self._pieces(call, assembler, parser.feed(chunk)):
                        first = first or time.perf_counter()
                        yield piece
                    first = first or (time.perf_counter() if assembler.begun else None)
                    if assembler.done:
                        await read_on(chunks)
                        break
            except HTTPError:
                if not assembler.done:  # after its last event, how a stream ends is no matter
                    raise
            finally:
                await unwind(call.response, chunks)
            for piece in self._pieces(call, assembler, parser.end()):
                yield piece
            if not assembler.done:
                raise LLMResponseError(
                    "the answer was cut off before its end; ask again",
                    **facts(self.key.provider, call.response),
                )
            end = time.perf_counter()
            completion = self._completion(call, assembler.answer(), end, first or end)
        yield completion

    def _pieces(
        self, call: _Call, assembler: Assembler, events: list[bytes]
    ) -> Iterator[TextDelta | ReasoningDelta]:
        for event in events:
            if assembler.done:
                return
            try:
                pieces = assembler.take(event)
            except ErrorEvent as error:
                raise refusal(self.key.provider, call.response, error.body) from None
            yield from pieces

    # -- options that are ours

    def _own_option(self, name: str, default: int, *, least: int) -> int:
        """Take a number out of the options."""
        value = self._options.pop(name, default)
        if type(value) is not int or value < least:
            raise ConfigurationError(f"{name} must be a whole number of at least {least}")
        return value


def text_or_none(value: Any) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def tokens(data: Any, name: str) -> int | None:
    """A number of tokens; None where a server sends something else, for unknown is not 0."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
