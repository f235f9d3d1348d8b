"""Files to conversations, still undecoded: JSON and JSONL, told apart by their content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import msgspec

from asynchistory.errors import InvalidInputError

_BOM = b"\xef\xbb\xbf"
_BARE_START = re.compile(rb"[\[{\s]+")
#: How far to look for a message in a list, to tell a conversation from a list of them.
_PEEK = 10


class Item(NamedTuple):
    """One conversation of a file, if it is one.

    Attributes:
        place: where it stands, such as ``line 7``.
        size: the bytes that it takes in the file.
        content: its JSON, or what a JSON text held that only Python's parser could read.
    """

    place: str
    size: int
    content: Any


def read_items(stream: BinaryIO) -> Iterator[Item]:
    """What a file holds, in its order.

    A file whose first line is JSON by itself, and which goes on after it, is
    JSONL and read line by line. Anything else is read as one document.
    """
    lines = _numbered(enumerate(stream, 1))
    first = next(lines, None)
    if first is None:
        return
    if _is_container(first[1]):
        second = next(lines, None)
        if second is not None:
            yield from _line_items(chain([first, second], lines))
        else:
            yield from _document_items(first[1], f"line {first[0]}")
        return
    data = first[1] + stream.read()
    if _is_jsonl_with_broken_start(data):
        yield from _line_items(_numbered(enumerate(data.split(b"\n"), first[0])))
    else:
        yield from _document_items(data, "" if b"\n" in data.strip() else f"line {first[0]}")


def decoded(content: Any) -> Any:
    """The values of an item's JSON.

    Lone surrogates and NaN come through, for the check of the records to refuse by name.

    Raises:
        InvalidInputError: it is not JSON.
    """
    if not isinstance(content, (bytes, msgspec.Raw)):
        return content
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decoded_leniently(bytes(content))


def _decoded_leniently(content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {error.start + 1}); convert it first"
    except json.JSONDecodeError as error:
        reason = f"not JSON (line {error.lineno}, column {error.colno})"
        if error.lineno == 1:
            reason = f"not JSON (column {error.colno})"
    except RecursionError:
        reason = "it nests too deeply; flatten it"
    except ValueError:
        reason = "not JSON (a number is out of range)"
    raise InvalidInputError(reason)


def _numbered(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for number, line in lines:
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield number, text


def _line_items(lines: Iterable[tuple[int, bytes]]) -> Iterator[Item]:
    for number, line in lines:
        yield Item(f"line {number}", len(line), line.rstrip())


def _document_items(data: bytes, place: str) -> Iterator[Item]:
    whole = Item(place, len(data), data)
    if not data.lstrip().startswith(b"["):
        yield whole
        return
    members = _members(data)
    if members is None or any(map(_is_message, members[:_PEEK])):
        yield whole
        return
    for number, member in enumerate(members, 1):
        yield Item(f"conversation {number}", len(data) // len(members), member)


def _members(data: bytes) -> list[Any] | None:
    """The members of a JSON list, undecoded where that can be; None if it is not JSON."""
    try:
        return msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        # One lone surrogate must not cost the conversations around it.
        value = _decoded_leniently(data)
    except InvalidInputError:
        return None
    return value if isinstance(value, list) else None


def _is_message(member: Any) -> bool:
    try:
        value = decoded(member)
    except InvalidInputError:
        return False
    return isinstance(value, dict) and isinstance(value.get("role"), str)


def _is_container(line: bytes) -> bool:
    try:
        return isinstance(decoded(line), (dict, list))
    except InvalidInputError:
        return False


def _is_jsonl_with_broken_start(data: bytes) -> bool:
    """Whether a file that does not begin with a line of JSON goes on with some."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) < 2 or _BARE_START.fullmatch(lines[0]):
        return False
    if _members(data) is not None or _is_container(data):
        return False
    return any(map(_is_container, lines[1:]))
