"""An answer as OpenAI's chat completions writes it: one object, or a stream of chunks.

Shapes and order follow OpenAI's API reference ("The chat completion object",
"The chat completion chunk object", ``stream_options.include_usage``);
``reasoning_content`` is DeepSeek's, which other compatible servers took over.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynchistory.testing.replies import CallTool, ErrorAnswer, Reply

DONE = b"data: [DONE]\n\n"


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def error_body(answer: ErrorAnswer) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {
        "error": {
            "message": answer.message,
            "type": answer.type,
            "param": answer.param,
            "code": answer.code,
        }
    }


def models() -> dict[str, Any]:
    """What ``GET /v1/models`` answers: one model, though every name is accepted."""
    model = {"id": "loopback", "object": "model", "created": 0, "owned_by": "asynchistory"}
    return {"object": "list", "data": [model]}


def _tokens(number_of_bytes: int) -> int:
    return math.ceil(number_of_bytes / 4)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def count_usage(request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """A usage object that depends on nothing but request and reply: 4 bytes are a token."""
    prompt = _tokens(len(to_json([request.get("messages"), request.get("tools")])))
    reasoning = _tokens(_size(reply.reasoning or ""))
    said = [reply.text, *(call.name + call.arguments_text for call in reply.tool_calls)]
    completion = reasoning + _tokens(sum(map(_size, said)))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


@dataclass(frozen=True)
class Completion:
    """A reply to one request.

    Attributes:
        number: of the request on this server, from 1; ids are made of it.
        request: its JSON.
        reply: what is answered.
    """

    number: int
    request: Mapping[str, Any]
    reply: Reply

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
        for piece in _pieces(reply.reasoning or "", reply.chunk_size):
            yield {"reasoning_content": piece}
        for piece in _pieces(reply.text, reply.chunk_size):
            yield {"content": piece}
        for index, call in enumerate(reply.tool_calls):
            yield from self._call_deltas(index, call)

    def _call_deltas(self, index: int, call: CallTool) -> Iterator[dict[str, Any]]:
        yield {"tool_calls": [{"index": index} | self._call(index, call, "")]}
        text = call.arguments_text
        # Never in one piece, so that whoever reads it has to put it together.
        size = max(1, min(self.reply.chunk_size, math.ceil(len(text) / 2)))
        for piece in _pieces(text, size):
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
