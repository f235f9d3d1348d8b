"""An answer as Anthropic's Messages API writes it: one message, or a stream of named events.

Shapes and order follow Anthropic's API reference ("Messages", "Streaming Messages", "Errors")
and the types in ``anthropic`` 2.14.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from asynchistory.testing.anthropic_checks import check_key, check_request
from asynchistory.testing.replies import CallTool, ErrorAnswer, Reply
from asynchistory.testing.wire import (
    Answered,
    Format,
    argument_pieces,
    count_tokens,
    pieces_of,
    to_json,
)

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
#: Codes that are OpenAI's, as Anthropic says the same; None has no code there.
_CODES = {
    "insufficient_quota": "enforced_spend_limit_reached",
    "invalid_api_key": None,
    "rate_limit_exceeded": None,
}


class AnthropicFormat(Format):
    """Anthropic's Messages API."""

    request_id = "request-id"
    broken_body = b'{"id": "msg_'
    broken_event = b'event: content_block_delta\ndata: {"type": "content_block_del\n\n'

    def check_key(self, headers: Mapping[str, str], api_key: str | None) -> None:
        """See :class:`Format`."""
        check_key(headers, api_key)

    def check_request(self, request: Any, headers: Mapping[str, str]) -> None:
        """See :class:`Format`."""
        check_request(request, headers)

    def body(self, number: int, request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """See :class:`Format`."""
        return _Message(number, request, reply).body()

    def events(self, number: int, request: Mapping[str, Any], reply: Reply) -> list[bytes]:
        """See :class:`Format`."""
        return [_event(event) for event in _Message(number, request, reply).events()]

    def error_body(self, number: int, answer: ErrorAnswer) -> dict[str, Any]:
        """See :class:`Format`."""
        kind = "invalid_request_error" if answer.status < 500 else "api_error"
        error: dict[str, Any] = {
            "type": _TYPES.get(answer.status, kind),
            "message": answer.message,
        }
        code = _CODES.get(answer.code, answer.code) if answer.code else None
        if code is not None:
            error["details"] = {"error_code": code}
        return {"type": "error", "error": error, "request_id": f"req_{number}"}

    def error_event(self, number: int, answer: ErrorAnswer) -> bytes:
        """See :class:`Format`."""
        return _event(self.error_body(number, answer))

    def models(self) -> dict[str, Any]:
        """See :class:`Format`."""
        model = {
            "type": "model",
            "id": "loopback",
            "display_name": "Loopback",
            "created_at": "1970-01-01T00:00:00Z",
        }
        return {"data": [model], "has_more": False, "first_id": "loopback", "last_id": "loopback"}


def _event(data: dict[str, Any]) -> bytes:
    name: str = data["type"]
    return b"event: " + name.encode() + b"\ndata: " + to_json(data) + b"\n\n"


def count_usage(request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """A usage object that depends on nothing but request and reply: 4 bytes are a token."""
    names = ("system", "messages", "tools")
    thinking = count_tokens(reply.reasoning or "")
    said = [reply.text, *(call.name + call.arguments_text for call in reply.tool_calls)]
    return {
        "input_tokens": count_tokens(to_json([request.get(name) for name in names])),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": thinking + count_tokens(*said),
        "output_tokens_details": {"thinking_tokens": thinking},
    }


class _Block(NamedTuple):
    """A block of content: as it begins, what is added in a stream, and what it has at its end."""

    start: dict[str, Any]
    deltas: list[dict[str, Any]]
    end: dict[str, Any]


class _Message(Answered):
    """A reply in this format."""

    def body(self) -> dict[str, Any]:
        """The answer in one piece."""
        content = [{**block.start, **block.end} for block in self._blocks()]
        return self._head() | self._usage() | {"content": content, **self._stop()}

    def events(self) -> Iterator[dict[str, Any]]:
        """The answer as a stream."""
        usage = self._usage()
        begun = {"usage": {**usage["usage"], "output_tokens": 1}} if usage else {}
        nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": self._head() | nothing | begun}
        for index, block in enumerate(self._blocks()):
            yield {"type": "content_block_start", "index": index, "content_block": block.start}
            if index == 0:
                yield {"type": "ping"}
            for delta in block.deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        yield {"type": "message_delta", "delta": self._stop()} | usage
        yield {"type": "message_stop"}

    def _blocks(self) -> Iterator[_Block]:
        reply, size = self.reply, self.reply.chunk_size
        if reply.reasoning is not None:
            signature = {"signature": f"sig_{self.number}"}
            yield _Block(
                {"type": "thinking", "thinking": "", "signature": ""},
                [
                    *_deltas("thinking_delta", "thinking", pieces_of(reply.reasoning, size)),
                    {"type": "signature_delta", **signature},
                ],
                {"thinking": reply.reasoning, **signature},
            )
        if reply.text:
            texts = _deltas("text_delta", "text", pieces_of(reply.text, size))
            yield _Block({"type": "text", "text": ""}, texts, {"text": reply.text})
        for index, call in enumerate(reply.tool_calls):
            call_id = call.id or f"toolu_{self.number}_{index}"
            yield _Block(
                {"type": "tool_use", "id": call_id, "name": call.name, "input": {}},
                _deltas(
                    "input_json_delta", "partial_json", argument_pieces(call.arguments_text, size)
                ),
                {"input": _input(call)},
            )

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": self.request["model"],
        }

    def _stop(self) -> dict[str, Any]:
        reason = "tool_use" if self.reply.tool_calls else "end_turn"
        return {"stop_reason": self.reply.finish_reason or reason, "stop_sequence": None}

    def _usage(self) -> dict[str, Any]:
        usage = self.reply.usage
        if usage is None:
            usage = count_usage(self.request, self.reply)
        return {"usage": usage} if usage else {}


def _deltas(kind: str, field: str, pieces: Iterable[str]) -> list[dict[str, Any]]:
    return [{"type": kind, field: piece} for piece in pieces]


def _input(call: CallTool) -> dict[str, Any]:
    """A call's arguments in one piece, where they cannot be broken JSON as in a stream."""
    try:
        arguments = json.loads(call.arguments_text)
    except (ValueError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"INVALID_JSON": call.arguments_text}
