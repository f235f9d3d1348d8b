"""OpenAI's chat completions, and the many servers that speak them.

The wire format is that of https://platform.openai.com/docs/api-reference/chat: a
stream of server-sent events that ends with ``[DONE]``, tool calls in fragments by
``index``, usage in a last chunk when ``stream_options.include_usage`` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from asynchistory.formats import conversation_to_openai, from_openai
from asynchistory.llm.client import Answer, Assembler, ErrorEvent, HTTPClient, text_or_none, tokens
from asynchistory.llm.http import checked_url
from asynchistory.llm.port import ChatRequest, ReasoningDelta, TextDelta, ToolSpec
from asynchistory.records import Message, Reasoning, Usage

#: OpenAI's own endpoint.
BASE_URL = "https://api.openai.com/v1"


class OpenAIClient(HTTPClient):
    """A model behind OpenAI's chat completions; see :class:`HTTPClient` for its arguments."""

    def _address(self) -> str:
        return f"{checked_url(self.key.base_url or BASE_URL)}/chat/completions"

    def _headers(self, secret: str) -> dict[str, str]:
        return {} if not secret else {"authorization": f"Bearer {secret}"}

    def _body(self, request: ChatRequest, *, streamed: bool) -> dict[str, Any]:
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
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def _answer(self, data: dict[str, Any]) -> Answer:
        choice = data["choices"][0]
        return Answer(
            message=_message(choice["message"], choice["message"].get("reasoning_content")),
            model=text_or_none(data.get("model")),
            finish_reason=text_or_none(choice.get("finish_reason")),
            usage=_usage(data.get("usage")),
        )

    def _assembler(self) -> Assembler:
        return _Assembler()


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Fragment(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
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


class _Assembler(Assembler):
    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._by_index: dict[int | None, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._model: str | None = None

    def take(self, event: bytes) -> list[TextDelta | ReasoningDelta]:
        if event.strip() == b"[DONE]":
            self.done = True
            return []
        chunk = msgspec.json.decode(event, type=_Chunk)
        if chunk.error is not None:
            raise ErrorEvent(chunk.error)
        self._usage = _usage(chunk.usage) or self._usage
        self._model = text_or_none(chunk.model) or self._model
        return [piece for choice in (chunk.choices or ())[:1] for piece in self._said(choice)]

    def _said(self, choice: _Choice) -> Iterator[TextDelta | ReasoningDelta]:
        self._finish_reason = text_or_none(choice.finish_reason) or self._finish_reason
        delta = choice.delta or _Delta()
        for fragment in delta.tool_calls or ():
            self._add(fragment)
            self.begun = True
        if delta.reasoning_content:
            self._reasoning.append(delta.reasoning_content)
            yield ReasoningDelta(delta.reasoning_content)
        for text, kept in ((delta.content, self._text), (delta.refusal, self._refusal)):
            if text:
                kept.append(text)
                yield TextDelta(text)

    def _add(self, fragment: _Fragment) -> None:
        call = self._by_index.get(fragment.index)
        # Some servers send whole calls, and all of them with the same index or with none.
        if call is None or (fragment.id and call["id"] and fragment.id != call["id"]):
            call = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            self._calls.append(call)
            self._by_index[fragment.index] = call
        call["id"] = fragment.id or call["id"]
        function = fragment.function or _Function()
        call["function"]["name"] += function.name or ""
        call["function"]["arguments"] += function.arguments or ""

    def answer(self) -> Answer:
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._refusal:
            message |= {"content": text or None, "refusal": "".join(self._refusal)}
        if self._calls:
            message |= {"content": text or None, "tool_calls": self._calls}
        return Answer(
            message=_message(message, "".join(self._reasoning)),
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
        )


def _message(data: dict[str, Any], reasoning: Any) -> Message:
    message = from_openai({name: data[name] for name in data if name != "reasoning_content"})
    if isinstance(reasoning, str) and reasoning:
        message = replace(message, parts=(Reasoning(reasoning), *message.parts))
    return message


def _usage(data: Any) -> Usage | None:
    if not isinstance(data, dict):
        return None
    sent = data.get("prompt_tokens_details")
    received = data.get("completion_tokens_details")
    usage = Usage(
        input_tokens=tokens(data, "prompt_tokens"),
        output_tokens=tokens(data, "completion_tokens"),
        total_tokens=tokens(data, "total_tokens"),
        cached_tokens=tokens(sent, "cached_tokens"),
        reasoning_tokens=tokens(received, "reasoning_tokens"),
    )
    return None if usage == Usage() else usage


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
