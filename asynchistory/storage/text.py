"""What a search looks at, and when it matches.

A term matches where it occurs in the text, both folded (:func:`fold`): a plain
substring, without words, stems or languages. Every store answers by this, with
an index or without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from unicodedata import combining, is_normalized, normalize

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

#: The types of record that have text to search, by name.
SEARCHED_TYPES = ("message", "tool_call")

#: More combining marks than this in a row are no letter of any language.
_MOST_MARKS = 30
_PERHAPS_MARKS = re.compile(rf"[^\w\s]{{{_MOST_MARKS + 1},}}")


def fold(text: str) -> str:
    """The text as searches compare it: case-folded, and composed to Unicode's NFC.

    So texts that differ in case, or in whether a letter and its marks are one
    character or several, are equal. A composed letter is another letter than its
    base: ``e`` is not in ``é``. More than 30 combining marks in a row stay as
    they are.
    """
    if text.isascii():
        return text.lower()
    # Folding can undo a composition (of ΐ, say), and make a new one possible.
    return _composed(_composed(text).casefold())


def _composed(text: str) -> str:
    if is_normalized("NFC", text):
        return text
    if _PERHAPS_MARKS.search(text) is None:
        return normalize("NFC", text)
    # Unicode's sorting of marks takes the square of their number: minutes, for a hostile message.
    pieces = _many_marks().split(text)
    pieces[::2] = [normalize("NFC", piece) for piece in pieces[::2]]
    return "".join(pieces)


@cache
def _many_marks() -> re.Pattern[str]:
    marks = "".join(char for char in map(chr, range(0x300, 0x20000)) if combining(char))
    return re.compile(f"([{marks}]{{{_MOST_MARKS + 1},}})")


def search_terms(text: str) -> list[str]:
    """The terms of a search, folded, each once.

    Raises:
        InvalidQueryError: there is none.
    """
    terms = fold(text).split() if isinstance(text, str) else []
    if not terms:
        raise InvalidQueryError("a search needs at least one word")
    return list(dict.fromkeys(terms))


def searchable_text(record: StoredRecord) -> str:
    """The words of a message or a tool call, one piece a line; "" for other records."""
    if isinstance(record, Message):
        return "\n".join(piece for part in record.parts for piece in _pieces(part) if piece)
    if isinstance(record, ToolCall):
        texts = (record.name, _text(record.input), _text(record.output), record.error)
        return "\n".join(filter(None, texts))
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
