"""What the loopback server needs to know of a provider's format."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynchistory.testing.replies import ErrorAnswer, Reply


class RefusedError(Exception):
    """The server answers with an error instead of a completion.

    Attributes:
        answer: what it answers.
    """

    def __init__(self, answer: ErrorAnswer) -> None:
        super().__init__(answer.message)
        self.answer = answer


class Format(ABC):
    """A provider's format: what its API refuses, and how it writes what it answers.

    Attributes:
        request_id: the header with the request's id.
        broken_body: an answer that is not JSON.
        broken_event: an event of a stream that is not JSON.
    """

    request_id: str
    broken_body: bytes
    broken_event: bytes

    @abstractmethod
    def check_key(self, headers: Mapping[str, str], api_key: str | None) -> None:
        """Refuse a request without the key, if there is one; the key is never repeated."""

    @abstractmethod
    def check_request(self, request: Any, headers: Mapping[str, str]) -> None:
        """Refuse what the API refuses and what this server cannot do.

        Raises:
            RefusedError: with the answer to give.
        """

    @abstractmethod
    def body(self, number: int, request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """A reply in one piece; see :class:`Answered`."""

    @abstractmethod
    def events(self, number: int, request: Mapping[str, Any], reply: Reply) -> list[bytes]:
        """A reply as server-sent events, to the last."""

    @abstractmethod
    def error_body(self, number: int, answer: ErrorAnswer) -> dict[str, Any]:
        """An error in one piece."""

    @abstractmethod
    def error_event(self, number: int, answer: ErrorAnswer) -> bytes:
        """An error inside a stream."""

    @abstractmethod
    def models(self) -> dict[str, Any]:
        """What ``GET /v1/models`` answers: one model, though every name is accepted."""


@dataclass(frozen=True)
class Answered:
    """A reply to one request.

    Attributes:
        number: of the request on this server, from 1; ids are made of it.
        request: its JSON.
        reply: what is answered.
    """

    number: int
    request: Mapping[str, Any]
    reply: Reply


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def count_tokens(*texts: str | bytes) -> int:
    """Tokens that depend on nothing but the texts: 4 bytes are one."""
    size = sum(
        len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        for text in texts
    )
    return math.ceil(size / 4)


def pieces_of(text: str, size: int) -> Iterator[str]:
    """The text in pieces of so many characters."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def argument_pieces(text: str, size: int) -> Iterator[str]:
    """A call's arguments: never in one piece, so that whoever reads them puts them together."""
    return pieces_of(text, max(1, min(size, math.ceil(len(text) / 2))))
