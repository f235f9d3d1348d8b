"""What a search looks at, and when it matches."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from asynchistory.errors import InvalidQueryError
from asynchistory.records import (
    JSON,
    AnyPart,
    Message,
    Reasoning,
    StoredRecord,
    Text,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)


def search_terms(text: str) -> list[str]:
    """The terms of a search, case-folded.

    Raises:
        InvalidQueryError: there is none.
    """
    terms = text.casefold().split() if isinstance(text, str) else []
    if not terms:
        raise InvalidQueryError("a search needs at least one word")
    return terms


def matches(record: StoredRecord, terms: list[str]) -> bool:
    """Whether each term occurs in the record's text."""
    text = searchable_text(record).casefold()
    return all(term in text for term in terms)


def searchable_text(record: StoredRecord) -> str:
    """The words of a message or a tool call, one piece a line; "" for other records."""
    if isinstance(record, Message):
        return "\n".join(piece for part in record.parts for piece in _pieces(part))
    if isinstance(record, ToolCall):
        texts = (record.name, _text(record.input), _text(record.output), record.error or "")
        return "\n".join(texts)
    return ""


def _pieces(part: AnyPart) -> Iterator[str]:
    if isinstance(part, (Text, Reasoning)):
        yield part.text
    elif isinstance(part, ToolCallPart):
        yield part.name
        yield _text(part.arguments)
    elif isinstance(part, ToolResultPart):
        yield _text(part.result)


def _text(value: JSON) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
