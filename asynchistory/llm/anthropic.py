"""Anthropic's Messages API, and the servers that speak it.

The wire format is that of https://platform.claude.com/docs/en/api/messages: a stream of named
events from ``message_start`` to ``message_stop``, whose data says its ``type`` too; blocks of
content by ``index``, the arguments of tools as fragments of JSON. Events of other types may be
added to the API at any time and are passed over.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec.structs import replace

from asynchistory.errors import ConfigurationError
from asynchistory.formats import conversation_to_anthropic, from_anthropic
from asynchistory.llm.client import Answer, Assembler, ErrorEvent, HTTPClient, text_or_none, tokens
from asynchistory.llm.http import checked_url
from asynchistory.llm.port import ChatRequest, ReasoningDelta, TextDelta, ToolSpec
from asynchistory.records import Message, ToolCallPart, Usage

#: Anthropic's own endpoint.
BASE_URL = "https://api.anthropic.com"
#: The newest version of the API, which has no temperature; and the last one that has.
VERSION, SAMPLING_VERSION = "2026-10-21", "2023-06-01"
#: The API wants to be told a number. All models that are served can give as many.
MAX_TOKENS = 8192

_SAMPLING = {"temperature", "top_p", "top_k"}
_MODEL = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2}))?(?!\d)")
#: The first generation of models that takes no temperature, in any version of the API.
_WITHOUT_SAMPLING = (4, 7)


class AnthropicClient(HTTPClient):
    """A model behind Anthropic's Messages API; see :class:`HTTPClient` for its arguments.

    Of its options ``max_tokens`` is how long an answer may be, and ``anthropic_version`` the
    version of the API: the newest one, or the last that took a temperature if there is one.

    Raises:
        ConfigurationError: a temperature, ``top_p`` or ``top_k`` is given, and the model or the
            version does not take it.
    """

    def _configure(self) -> None:
        self._max_tokens = self._own_option("max_tokens", MAX_TOKENS, least=1)
        sampling = _SAMPLING & self._options.keys()
        if self.key.temperature is not None:
            sampling.add("temperature")
        version = self._options.pop("anthropic_version", None)
        _check_sampling(self.key.model, sorted(sampling), version)
        self._version = version or (SAMPLING_VERSION if sampling else VERSION)

    def _address(self) -> str:
        # Anthropic's own clients are given the address without a version, most others with it.
        return f"{checked_url(self.key.base_url or BASE_URL).removesuffix('/v1')}/v1/messages"

    def _headers(self, secret: str) -> dict[str, str]:
        headers = {"anthropic-version": self._version}
        return headers if not secret else {**headers, "x-api-key": secret}

    def _body(self, request: ChatRequest, *, streamed: bool) -> dict[str, Any]:
        system, messages = conversation_to_anthropic(request.messages)
        body: dict[str, Any] = {
            "model": self.key.model,
            "max_tokens": request.max_tokens or self._max_tokens,
            "messages": _sendable(messages),
            **self._options,
        }
        if system is not None:
            body["system"] = system
        if self.key.temperature is not None:
            body["temperature"] = self.key.temperature
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        if streamed:
            body["stream"] = True
        return body

    def _answer(self, data: dict[str, Any]) -> Answer:
        return Answer(
            message=from_anthropic({"role": data["role"], "content": data["content"]}),
            model=text_or_none(data.get("model")),
            finish_reason=text_or_none(data.get("stop_reason")),
            usage=_usage(data.get("usage")),
        )

    def _assembler(self) -> Assembler:
        return _Assembler()


def _check_sampling(model: str, sampling: list[str], version: object) -> None:
    if version is not None and not isinstance(version, str):
        raise ConfigurationError(f"anthropic_version must be text, such as {VERSION!r}")
    if not sampling:
        return
    names = ", ".join(sampling)
    found = _MODEL.search(model)
    if found is not None and (int(found[1]), int(found[2] or 0)) >= _WITHOUT_SAMPLING:
        raise ConfigurationError(f"{model} takes no {names}; leave it out")
    if version is not None and version >= VERSION:
        raise ConfigurationError(
            f"version {version} of Anthropic's API takes no {names}; leave it out, "
            f"or set anthropic_version to {SAMPLING_VERSION!r}"
        )


def _sendable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without the empty answers and texts that models give and the API refuses."""
    sent = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, list):
            content = [block for block in content if not _is_blank(block)]
            message["content"] = content
        if content or message["role"] != "assistant":
            sent.append(message)
    return sent


def _is_blank(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "text":
        return False
    text = block.get("text")
    return isinstance(text, str) and not text.strip()


class _Kind(msgspec.Struct):
    type: str


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: Any = None
    stop_reason: Any = None


class _Event(msgspec.Struct):
    type: str
    index: int | None = None
    message: dict[str, Any] | None = None
    content_block: dict[str, Any] | None = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


_KNOWN = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "error",
    }
)
_DELTAS = ("text", "thinking", "signature", "partial_json")


class _Block:
    """A block of content as it comes: how it began, and the pieces that were added."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._start = start
        self._pieces: dict[str, list[str]] = {}
        self._citations: list[Any] = []

    def add(self, delta: _Delta) -> None:
        for field in _DELTAS:
            if (piece := getattr(delta, field)) is not None:
                self._pieces.setdefault(field, []).append(piece)
        if delta.citation is not None:
            self._citations.append(delta.citation)

    def whole(self) -> tuple[dict[str, Any], str | None]:
        """The block as an answer in one piece has it, and arguments that are no JSON object."""
        block = dict(self._start)
        added = {field: "".join(pieces) for field, pieces in self._pieces.items()}
        arguments = added.pop("partial_json", "")
        for field, text in added.items():
            block[field] = (text_or_none(block.get(field)) or "") + text
        if self._citations:
            block["citations"] = self._citations
        if not arguments:
            return block, None
        try:
            return {**block, "input": msgspec.json.decode(arguments, type=dict[str, Any])}, None
        except (msgspec.MsgspecError, RecursionError):
            return {**block, "input": {}}, arguments


class _Assembler(Assembler):
    def __init__(self) -> None:
        self._role: Any = "assistant"
        self._blocks: dict[int, _Block] = {}
        self._model: str | None = None
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] = {}

    def take(self, event: bytes) -> list[TextDelta | ReasoningDelta]:
        if msgspec.json.decode(event, type=_Kind).type not in _KNOWN:
            return []
        got = msgspec.json.decode(event, type=_Event)
        if got.type == "error":
            raise ErrorEvent(got.error)
        if got.type == "message_start" and got.message is not None:
            self._role = got.message.get("role")
            self._model = text_or_none(got.message.get("model"))
            self._count(got.message.get("usage"))
        elif got.type == "content_block_start" and got.content_block is not None:
            self._blocks[_index(got)] = _Block(got.content_block)
            self.begun = self.begun or got.content_block.get("type") == "tool_use"
        elif got.type == "content_block_delta" and got.delta is not None:
            self._blocks[_index(got)].add(got.delta)
            return _said(got.delta)
        elif got.type == "message_delta" and got.delta is not None:
            self._finish_reason = text_or_none(got.delta.stop_reason) or self._finish_reason
            self._count(got.usage)
        elif got.type == "message_stop":
            self.done = True
        return []

    def _count(self, usage: Any) -> None:
        """Take in what is counted so far; each figure is all of it up to now."""
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def answer(self) -> Answer:
        wholes = [self._blocks[index].whole() for index in sorted(self._blocks)]
        message = from_anthropic({"role": self._role, "content": [block for block, _ in wholes]})
        broken = {block.get("id"): arguments for block, arguments in wholes if arguments}
        return Answer(
            message=_with_arguments(message, broken) if broken else message,
            model=self._model,
            finish_reason=self._finish_reason,
            usage=_usage(self._usage),
        )


def _with_arguments(message: Message, broken: dict[Any, str]) -> Message:
    """The message with arguments as they came: whoever runs the tool shall see that they are bad.

    An answer that ran out of tokens ends in the middle of them.
    """
    parts = tuple(
        replace(part, arguments=broken[part.id])
        if isinstance(part, ToolCallPart) and part.id in broken
        else part
        for part in message.parts
    )
    return replace(message, parts=parts, raw=None, raw_format=None)


def _index(event: _Event) -> int:
    if event.index is None:
        raise LookupError("a block without its index")
    return event.index


def _said(delta: _Delta) -> list[TextDelta | ReasoningDelta]:
    said: list[TextDelta | ReasoningDelta] = []
    if delta.thinking:
        said.append(ReasoningDelta(delta.thinking))
    if delta.text:
        said.append(TextDelta(delta.text))
    return said


def _usage(data: Any) -> Usage | None:
    """Tokens as we count them: what was read from the cache or written to it was sent as well."""
    uncached, received = tokens(data, "input_tokens"), tokens(data, "output_tokens")
    if uncached is None and received is None:
        return None
    cached = tokens(data, "cache_read_input_tokens")
    written = tokens(data, "cache_creation_input_tokens")
    sent = None if uncached is None else uncached + (cached or 0) + (written or 0)
    return Usage(
        input_tokens=sent,
        output_tokens=received,
        total_tokens=None if sent is None or received is None else sent + received,
        cached_tokens=cached,
        reasoning_tokens=tokens(data.get("output_tokens_details"), "thinking_tokens"),
    )


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = tool.parameters or {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "input_schema": schema}
