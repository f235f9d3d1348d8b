"""OpenAI's chat completions, and the many servers that speak them.

The wire format is that of https://platform.openai.com/docs/api-reference/chat: a
stream of server-sent events that ends with ``[DONE]``, tool calls in fragments by
``index``, usage in a last chunk when ``stream_options.include_usage`` asks for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

from asynchistory.errors import LLMResponseError
from asynchistory.formats import conversation_to_openai, from_openai
from asynchistory.llm.http import Response, RunLocalTransport, checked_url, http_client
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
from asynchistory.llm.problems import problem, refusal
from asynchistory.llm.sse import event_data
from asynchistory.records import JSON, Usage

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
        self._url = f"{checked_url(key.base_url or BASE_URL)}/chat/completions"
        self._api_key = api_key
        self._options = options or {}
        self._transport = RunLocalTransport()
        self._http = http_client(self._transport, timeout)

    def __repr__(self) -> str:
        return f"<OpenAIClient {self.key.model} at {self._url}>"

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncGenerator[AsyncIterator[ClientEvent]]:
        """See :class:`LLMClient`."""
        body = self._body(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        start = time.perf_counter()
        async with self._send(body) as response:
            await _check(self.key.provider, response)
            async with aclosing(_Answer(self.key, response, start).events()) as events:
                yield events

    async def complete(self, request: ChatRequest) -> Completion:
        """See :class:`LLMClient`."""
        start = time.perf_counter()
        async with self._send(self._body(request)) as response:
            await _check(self.key.provider, response)
            with problem(self.key.provider, response):
                data = msgspec.json.decode(await response.aread(), type=dict[str, Any])
                choice = data["choices"][0]
                return Completion(
                    message=from_openai(choice["message"]),
                    model=str(data.get("model") or self.key.model),
                    finish_reason=choice.get("finish_reason"),
                    usage=_usage(data.get("usage")),
                    request_id=response.headers.get("x-request-id"),
                    response_time=time.perf_counter() - start,
                )

    async def aclose(self) -> None:
        """See :class:`LLMClient`."""
        await self._transport.aclose()

    @asynccontextmanager
    async def _send(self, body: dict[str, Any]) -> AsyncGenerator[Response]:
        headers = {"content-type": "application/json"}
        if secret := self._api_key():
            headers["authorization"] = f"Bearer {secret}"
        content = msgspec.json.encode(body)
        with problem(self.key.provider):
            async with self._http.stream(
                "POST", self._url, content=content, headers=headers
            ) as response:
                yield response

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


class _Answer:
    """Puts an answer together from the chunks of its stream."""

    def __init__(self, key: ClientKey, response: Response, start: float) -> None:
        self._key = key
        self._response = response
        self._start = start
        self._first: float | None = None
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._model = key.model

    async def events(self) -> AsyncGenerator[ClientEvent, None]:
        done = False
        with problem(self._key.provider, self._response):
            async with aclosing(event_data(self._response.aiter_bytes())) as data:
                async for event in data:
                    done = event.strip() == b"[DONE]"
                    if done:
                        break
                    for piece in self._take(msgspec.json.decode(event, type=dict[str, Any])):
                        self._first = self._first or time.perf_counter()
                        yield piece
            if not done:
                raise LLMResponseError(
                    "the answer was cut off before its end; ask again",
                    provider=self._key.provider,
                    request_id=self._response.headers.get("x-request-id"),
                )
            completion = self._completion()
        yield completion

    def _take(self, chunk: dict[str, Any]) -> list[ClientEvent]:
        if "error" in chunk:
            raise refusal(self._key.provider, self._response, chunk)
        self._usage = _usage(chunk.get("usage")) or self._usage
        self._model = str(chunk.get("model") or self._model)
        pieces: list[ClientEvent] = []
        for choice in (chunk.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if text := delta.get("content"):
                self._text.append(text)
                pieces.append(TextDelta(text))
            # Not OpenAI's; several servers that speak its format stream reasoning so.
            if text := delta.get("reasoning_content"):
                pieces.append(ReasoningDelta(text))
            for fragment in delta.get("tool_calls") or ():
                self._add(fragment)
        return pieces

    def _add(self, fragment: dict[str, Any]) -> None:
        index = fragment.get("index", len(self._calls))
        call = self._calls.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = fragment.get("id") or call["id"]
        function = fragment.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def _completion(self) -> Completion:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        elif message["content"] is None:
            message["content"] = ""
        end = time.perf_counter()
        return Completion(
            message=from_openai(message),
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
            request_id=self._response.headers.get("x-request-id"),
            response_time=end - self._start,
            time_to_first_token=(self._first or end) - self._start,
        )


async def _check(provider: str, response: Response) -> None:
    if response.status_code != 200:
        with problem(provider, response):
            body = await response.aread()
        raise refusal(provider, response, body)


def _usage(data: Any) -> Usage | None:
    if not isinstance(data, dict):
        return None
    sent = data.get("prompt_tokens_details") or {}
    received = data.get("completion_tokens_details") or {}
    return Usage(
        input_tokens=data.get("prompt_tokens"),
        output_tokens=data.get("completion_tokens"),
        total_tokens=data.get("total_tokens"),
        cached_tokens=sent.get("cached_tokens"),
        reasoning_tokens=received.get("reasoning_tokens"),
    )


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
