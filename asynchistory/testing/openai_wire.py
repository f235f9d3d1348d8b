"""An answer as OpenAI's chat completions writes it: one object, or a stream of chunks.

Shapes and order follow OpenAI's API reference ("The chat completion object",
"The chat completion chunk object", ``stream_options.include_usage``);
``reasoning_content`` is DeepSeek's, which other compatible servers took over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from asynchistory.testing.openai_checks import check_key, check_request
from asynchistory.testing.replies import CallTool, ErrorAnswer, Reply
from asynchistory.testing.wire import (
    Answered,
    Format,
    argument_pieces,
    count_tokens,
    pieces_of,
    to_json,
)

DONE = b"data: [DONE]\n\n"
_NOT_JSON = b'{"id": "chatcmpl-'


class OpenAIFormat(Format):
    """OpenAI's chat completions."""

    request_id = "x-request-id"
    broken_body = _NOT_JSON
    broken_event = b"data: " + _NOT_JSON + b"\n\n"

    def check_key(self, headers: Mapping[str, str], api_key: str | None) -> None:
        """See :class:`Format`."""
        check_key(headers, api_key)

    def check_request(self, request: Any, headers: Mapping[str, str]) -> None:
        """See :class:`Format`."""
        check_request(request)

    def body(self, number: int, request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """See :class:`Format`."""
        return Completion(number, request, reply).body()

    def events(self, number: int, request: Mapping[str, Any], reply: Reply) -> list[bytes]:
        """See :class:`Format`."""
        return [*Completion(number, request, reply).events(), DONE]

    def error_body(self, number: int, answer: ErrorAnswer) -> dict[str, Any]:
        """See :class:`Format`."""
        names = ("message", "type", "param", "code")
        return {"error": {name: getattr(answer, name) for name in names}}

    def error_event(self, number: int, answer: ErrorAnswer) -> bytes:
        """See :class:`Format`."""
        return b"data: " + to_json(self.error_body(number, answer)) + b"\n\n"

    def models(self) -> dict[str, Any]:
        """See :class:`Format`."""
        model = {"id": "loopback", "object": "model", "created": 0, "owned_by": "asynchistory"}
        return {"object": "list", "data": [model]}


def count_usage(request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """A usage object that depends on nothing but request and reply: 4 bytes are a token."""
    prompt = count_tokens(to_json([request.get("messages"), request.get("tools")]))
    reasoning = count_tokens(reply.reasoning or "")
    said = [reply.text, *(call.name + call.arguments_text for call in reply.tool_calls)]
    completion = reasoning + count_tokens(*said)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }


class Completion(Answered):
    """A reply in this format."""

    def body(self) -> dict[str, Any]:
        """The answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content, "refusal": None}
        if self.reply.reasoning is not None:
            message["reasoning_content"] = self.reply.reasoning
        if self.reply.tool_calls:
            message["tool_calls"] = [
                self._call(index, call, call.arguments_text)
                for index, call in enumerate(self.reply.tool_calls)
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish_reason,
        }
        usage = self._usage()
        return self._head("chat.completion") | {"choices": [choice]} | _present("usage", usage)

    def events(self) -> list[bytes]:
        """The answer as server-sent events, without ``[DONE]``."""
        return [b"data: " + to_json(chunk) + b"\n\n" for chunk in self._chunks()]

    def _chunks(self) -> Iterator[dict[str, Any]]:
        wants_usage = (self.request.get("stream_options") or {}).get("include_usage")
        head = self._head("chat.completion.chunk") | ({"usage": None} if wants_usage else {})
        for delta in self._deltas():
            yield head | {"choices": [_choice(delta)]}
        yield head | {"choices": [_choice({}, self._finish_reason)]}
        if wants_usage and (usage := self._usage()):
            yield head | {"choices": [], "usage": usage}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        reply = self.reply
        yield {"role": "assistant", "content": None if self._content is None else ""}
        for piece in pieces_of(reply.reasoning or "", reply.chunk_size):
            yield {"reasoning_content": piece}
        for piece in pieces_of(reply.text, reply.chunk_size):
            yield {"content": piece}
        for index, call in enumerate(reply.tool_calls):
            yield from self._call_deltas(index, call)

    def _call_deltas(self, index: int, call: CallTool) -> Iterator[dict[str, Any]]:
        yield {"tool_calls": [{"index": index} | self._call(index, call, "")]}
        for piece in argument_pieces(call.arguments_text, self.reply.chunk_size):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _call(self, index: int, call: CallTool, arguments: str) -> dict[str, Any]:
        return {
            "id": call.id or f"call_{self.number}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.number}",
            "object": kind,
            "created": int(time.time()),
            "model": self.request["model"],
            "system_fingerprint": "fp_loopback",
        }

    @property
    def _content(self) -> str | None:
        return None if self.reply.tool_calls and not self.reply.text else self.reply.text

    @property
    def _finish_reason(self) -> str:
        return self.reply.finish_reason or ("tool_calls" if self.reply.tool_calls else "stop")

    def _usage(self) -> Mapping[str, Any]:
        if self.reply.usage is not None:
            return self.reply.usage
        return count_usage(self.request, self.reply)


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _present(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value} if value else {}
