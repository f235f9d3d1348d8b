"""OpenAI's chat completions, and the many servers that speak them.

The wire format is that of https://platform.openai.com/docs/api-reference/chat: a
stream of server-sent events that ends with ``[DONE]``, tool calls in fragments by
``index``, usage in a last chunk when ``stream_options.include_usage`` asks for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from asynchistory.codec import MAX_TOKENS
from asynchistory.environment import Secret
from asynchistory.errors import LLMAuthenticationError, LLMError, LLMResponseError
from asynchistory.formats import conversation_to_openai, from_openai
from asynchistory.llm.http import (
    HTTPError,
    Request,
    Response,
    checked_url,
    http_client,
    post,
    read_on,
    unwind,
)
from asynchistory.llm.key import ClientKey
from asynchistory.llm.port import (
    ChatRequest,
    ClientEvent,
    Completion,
    LLMClient,
    ReasoningDelta,
    TextDelta,
    ToolSpec,
)
from asynchistory.llm.problems import facts, problem, refusal
from asynchistory.llm.sse import EventParser
from asynchistory.records import JSON, Message, Reasoning, Usage

#: OpenAI's own endpoint.
BASE_URL = "https://api.openai.com/v1"


class OpenAIClient(LLMClient):
    """A model behind OpenAI's chat completions.

    Args:
        key: what it is for.
        api_key: gives the secret of the moment; None sends none.
        timeout: seconds to wait for each piece of an answer.
        options: further fields of each request, such as ``{"seed": 1}``.
    """

    def __init__(
        self,
        key: ClientKey,
        *,
        api_key: Callable[[], str | None],
        timeout: float = 60.0,
        options: dict[str, JSON] | None = None,
    ) -> None:
        self.key = key
        self._url = ""  # a repr may be asked for before it is checked
        self._url = f"{checked_url(key.base_url or BASE_URL)}/chat/completions"
        self._api_key = api_key
        self._options = options or {}
        self._http = http_client(timeout)

    def __repr__(self) -> str:
        return f"<OpenAIClient {self.key.model} at {self._url}>"

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncGenerator[AsyncIterator[ClientEvent]]:
        """See :class:`LLMClient`."""
        body = self._body(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        start = time.perf_counter()
        async with (
            self._send(body) as response,
            aclosing(_Answer(self.key, response, start).events()) as events,
        ):
            yield events

    async def complete(self, request: ChatRequest) -> Completion:
        """See :class:`LLMClient`."""
        start = time.perf_counter()
        async with self._send(self._body(request)) as response:
            with problem(self.key.provider, response):
                data = msgspec.json.decode(await response.aread(), type=dict[str, Any])
                choice = data["choices"][0]
                return Completion(
                    message=_message(choice["message"], choice["message"].get("reasoning_content")),
                    model=_text(data.get("model")) or self.key.model,
                    finish_reason=_text(choice.get("finish_reason")),
                    usage=_usage(data.get("usage")),
                    request_id=response.headers.get("x-request-id"),
                    response_time=time.perf_counter() - start,
                )

    @asynccontextmanager
    async def _send(self, body: dict[str, Any]) -> AsyncGenerator[Response]:
        # What the block raises is the caller's own: only the steps here are looked at.
        with problem(self.key.provider):
            response = await self._http.send(self._request(body), stream=True)
        try:
            if response.status_code != 200:
                raise await self._refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _refusal(self, response: Response) -> LLMError:
        # Made here and raised elsewhere: the answer may quote the key, and what logs tracebacks
        # with local variables would log it.
        with problem(self.key.provider, response):
            answer = await response.aread()
        return refusal(self.key.provider, response, answer)

    def _request(self, body: dict[str, Any]) -> Request:
        headers = {"content-type": "application/json"}
        if secret := Secret((self._api_key() or "").strip()):
            if not (secret.isascii() and secret.isprintable()):
                raise LLMAuthenticationError(
                    "the API key has characters that no header can carry; set it again",
                    provider=self.key.provider,
                )
            headers["authorization"] = Secret(f"Bearer {secret}")
        return post(self._http, self._url, msgspec.json.encode(body), headers)

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.key.model,
            "messages": conversation_to_openai(request.messages),
            **self._options,
        }
        if self.key.temperature is not None:
            body["temperature"] = self.key.temperature
        if request.max_tokens is not None:
            body["max_completion_tokens"] = request.max_tokens
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        return body


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Fragment(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    #: Not OpenAI's; several servers that speak its format stream reasoning so.
    reasoning_content: str | None = None
    tool_calls: list[_Fragment] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    model: Any = None
    error: Any = None


class _Answer:
    """Puts an answer together from the chunks of its stream."""

    def __init__(self, key: ClientKey, response: Response, start: float) -> None:
        self._key = key
        self._response = response
        self._start = start
        self._first: float | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._model = key.model
        self._done = False

    async def events(self) -> AsyncGenerator[ClientEvent, None]:
        parser = EventParser()
        with problem(self._key.provider, self._response):
            chunks = self._response.aiter_bytes()
            try:
                async for chunk in chunks:
                    for piece in self._pieces(parser.feed(chunk)):
                        yield piece
                    if self._done:
                        await read_on(chunks)
                        break
            except HTTPError:
                if not self._done:  # after its last event, how a stream ends is no matter
                    raise
            finally:
                await unwind(self._response, chunks)
            for piece in self._pieces(parser.end()):
                yield piece
            completion = self._completion()
        yield completion

    def _pieces(self, events: list[bytes]) -> Iterator[ClientEvent]:
        for event in events:
            self._done = self._done or event.strip() == b"[DONE]"
            if not self._done:
                yield from self._take(msgspec.json.decode(event, type=_Chunk))

    def _take(self, chunk: _Chunk) -> Iterator[ClientEvent]:
        if chunk.error is not None:
            raise refusal(self._key.provider, self._response, {"error": chunk.error})
        self._usage = _usage(chunk.usage) or self._usage
        self._model = _text(chunk.model) or self._model
        for choice in (chunk.choices or ())[:1]:
            self._finish_reason = _text(choice.finish_reason) or self._finish_reason
            delta = choice.delta or _Delta()
            for fragment in delta.tool_calls or ():
                self._add(fragment)
            if delta.reasoning_content or delta.content or delta.tool_calls:
                self._first = self._first or time.perf_counter()
            if delta.reasoning_content:
                self._reasoning.append(delta.reasoning_content)
                yield ReasoningDelta(delta.reasoning_content)
            if delta.content:
                self._text.append(delta.content)
                yield TextDelta(delta.content)

    def _add(self, fragment: _Fragment) -> None:
        index = len(self._calls) if fragment.index is None else fragment.index
        call = self._calls.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = fragment.id or call["id"]
        function = fragment.function or _Function()
        call["function"]["name"] += function.name or ""
        call["function"]["arguments"] += function.arguments or ""

    def _completion(self) -> Completion:
        if not self._done:
            raise LLMResponseError(
                "the answer was cut off before its end; ask again",
                **facts(self._key.provider, self._response),
            )
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._calls:
            message["content"] = text or None
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        end = time.perf_counter()
        return Completion(
            message=_message(message, "".join(self._reasoning)),
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
            request_id=self._response.headers.get("x-request-id"),
            response_time=end - self._start,
            time_to_first_token=(self._first or end) - self._start,
        )


def _message(data: dict[str, Any], reasoning: Any) -> Message:
    message = from_openai({name: data[name] for name in data if name != "reasoning_content"})
    if isinstance(reasoning, str) and reasoning:
        message = replace(message, parts=(Reasoning(reasoning), *message.parts))
    return message


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _usage(data: Any) -> Usage | None:
    if not isinstance(data, dict):
        return None
    sent = data.get("prompt_tokens_details")
    received = data.get("completion_tokens_details")
    usage = Usage(
        input_tokens=_count(data, "prompt_tokens"),
        output_tokens=_count(data, "completion_tokens"),
        total_tokens=_count(data, "total_tokens"),
        cached_tokens=_count(sent, "cached_tokens"),
        reasoning_tokens=_count(received, "reasoning_tokens"),
    )
    return None if usage == Usage() else usage


def _count(data: Any, name: str) -> int | None:
    """A number of tokens; None where a server sends something else, for unknown is not 0."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
