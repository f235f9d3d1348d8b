"""What the loopback server is told to answer: replies, faults, and scripts made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias

from asynchistory.errors import InvalidInputError
from asynchistory.testing.signals import Gate


@dataclass(frozen=True)
class CallTool:
    """A tool call that the model asks for.

    Attributes:
        name: of the tool.
        arguments: sent as JSON; a string is sent as it is, so it may be broken JSON.
        id: None gives one that is unique on this server.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def arguments_text(self) -> str:
        """The arguments as they go over the wire."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """An answer of the model.

    Attributes:
        text: what it says.
        tool_calls: the calls it asks for, all in this one turn.
        finish_reason: None is the provider's word for calls where there are calls, else that
            for an end.
        usage: the wire's usage object as it is sent; None counts a token for every 4 bytes,
            an empty one sends none.
        chunk_size: characters of one streamed piece of text or arguments.
        reasoning: sent as ``reasoning_content``, as DeepSeek's and other compatible servers do;
            in Anthropic's format a signed ``thinking`` block.
        gate: holds the answer back until it is opened.
        gate_after: streamed events that are sent before the gate; 0 is none (the headers are
            sent), 1 the first, with the role. A plain answer waits as a whole.
    """

    text: str = ""
    _: KW_ONLY
    tool_calls: Sequence[CallTool] = ()
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    chunk_size: int = 8
    reasoning: str | None = None
    gate: Gate | None = None
    gate_after: int = 0

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise InvalidInputError(f"chunk_size is {self.chunk_size}; it has to be 1 or more")
        if self.gate_after < 0:
            raise InvalidInputError(f"gate_after is {self.gate_after}; it has to be 0 or more")


@dataclass(frozen=True)
class ErrorAnswer:
    """An HTTP error, which each format writes in its own shape.

    Attributes:
        status: the HTTP status.
        message: for people.
        type: OpenAI's, such as ``invalid_request_error``; Anthropic's follows from the status.
        code: for programs, such as ``rate_limit_exceeded``; in Anthropic's format the
            ``details.error_code``, if it has one.
        param: the part of the request that is meant; OpenAI's alone.
        headers: further headers of the answer.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_UNFINISHED = Reply("This answer is never heard to its end.")
Kind: TypeAlias = Literal["error", "malformed", "cut", "wrong_length", "error_event", "hang"]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, in the place of a :class:`Reply`.

    Made by the class methods. ``after`` is the number of streamed events that
    arrive before it goes wrong; the first is the one with the role.
    """

    kind: Kind
    error: ErrorAnswer | None = None
    reply: Reply = _UNFINISHED
    after: int = 0
    gate: Gate | None = None

    @classmethod
    def status(
        cls,
        status: int,
        message: str = "The loopback server was told to fail.",
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """An HTTP error of any status."""
        return cls("error", ErrorAnswer(status, message, type, code, param, headers or {}))

    @classmethod
    def unauthorized(cls) -> Fault:
        """401: the key is not accepted."""
        return cls.status(401, "Incorrect API key provided.", code="invalid_api_key")

    @classmethod
    def rate_limited(cls, retry_after: float = 0.001) -> Fault:
        """429: too many requests; worth trying again.

        Args:
            retry_after: seconds, sent as ``retry-after-ms`` and, rounded up, ``retry-after``.
        """
        wait = {
            "retry-after-ms": str(round(retry_after * 1000)),
            "retry-after": str(math.ceil(retry_after)),
        }
        message = "Rate limit reached for requests."
        code = "rate_limit_exceeded"
        return cls.status(429, message, type="requests", code=code, headers=wait)

    @classmethod
    def quota_exhausted(cls) -> Fault:
        """429: no credit left; trying again is of no use."""
        message = "You exceeded your current quota, please check your plan and billing details."
        return cls.status(429, message, type="insufficient_quota", code="insufficient_quota")

    @classmethod
    def server_error(cls) -> Fault:
        """500: the provider failed."""
        message = "The server had an error while processing your request."
        return cls.status(500, message, type="server_error")

    @classmethod
    def unavailable(cls) -> Fault:
        """503: the provider is overloaded."""
        message = "The engine is currently overloaded, please try again later."
        return cls.status(503, message, type="server_error")

    @classmethod
    def overloaded(cls) -> Fault:
        """529: the provider has too much to do, as Anthropic says it."""
        return cls.status(529, "Overloaded", type="overloaded_error")

    @classmethod
    def malformed(cls, *, after: int = 2, reply: Reply = _UNFINISHED) -> Fault:
        """200, but a body, or in a stream a ``data:`` line, that is not JSON."""
        return cls("malformed", reply=reply, after=after)

    @classmethod
    def cut(cls, *, after: int = 2, reply: Reply = _UNFINISHED) -> Fault:
        """The connection ends in the middle of the answer, in a stream before its last event.

        A plain answer is cut in half. With ``after=0`` a stream ends behind the headers.
        """
        return cls("cut", reply=reply, after=after)

    @classmethod
    def error_event(cls, *, after: int = 2, reply: Reply = _UNFINISHED) -> Fault:
        """A stream that begins well and then says that the server failed; plain, a 500."""
        message = "The server had an error while processing your request."
        error = ErrorAnswer(500, message, "server_error")
        return cls("error_event", error, reply=reply, after=after)

    @classmethod
    def wrong_length(cls, *, reply: Reply = _UNFINISHED) -> Fault:
        """The whole answer, under a ``content-length`` that promises more, and then the end."""
        return cls("wrong_length", reply=reply)

    @classmethod
    def hang(cls, gate: Gate | None = None) -> Fault:
        """Nothing at all, until the client gives up or the server stops.

        Args:
            gate: its ``reached`` says that the request is there; opened, it closes the
                connection without an answer, as a server does that dies.
        """
        return cls("hang", gate=gate or Gate())

    @classmethod
    def hang_up(cls) -> Fault:
        """The connection is closed without an answer."""
        gate = Gate()
        gate.open()
        return cls.hang(gate)


Answer: TypeAlias = Reply | Fault
#: The same answer each time, one after another, or one worked out from the request's JSON.
Script: TypeAlias = Answer | Iterable[Answer] | Callable[[dict[str, Any]], Answer]
