"""What a file says to what is stored: messages to records, the rest to metadata."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from asynchistory.archive import Archived, is_line, read
from asynchistory.cli.sources import decoded
from asynchistory.codec import encode_json, encode_record
from asynchistory.errors import InvalidInputError
from asynchistory.formats import from_openai
from asynchistory.records import AnyRecord

#: Where a conversation's messages usually stand.
USUAL_KEYS = ("messages", "traj", "conversation", "conversations")
_PEEK = 10
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Conversation(NamedTuple):
    """A session to be, checked so that storing it cannot fail half way."""

    session_id: str
    key: str
    records: list[AnyRecord]
    metadata: dict[str, Any]


def conversation_of(content: Any, seen: Counter[str]) -> Conversation | Archived:
    """The conversation in an item of a file, or the session if it is a line of an export.

    ``seen`` counts the contents met in this file, so that two equal
    conversations are two, and the same two when the file is imported again.

    Raises:
        InvalidInputError: it is not a conversation, or one that cannot be stored.
    """
    value = decoded(content)
    if is_line(value):
        return read(_bytes(content, value))
    messages, rest = _messages(value)
    records = [_record(number, message) for number, message in enumerate(messages, 1)]
    metadata = {"import": rest} if rest else {}
    encode_json(metadata, "what stands beside the messages")
    content = blake2b(_canonical(value), digest_size=10).hexdigest()
    seen[content] += 1
    occurrence = seen[content]
    session_id = content if occurrence == 1 else f"{content}-{occurrence}"
    return Conversation(session_id, f"import:{content}:{occurrence}", records, metadata)


def _messages(value: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(value, list) and not (value and isinstance(value[0], list)):
        messages, rest = value, {}
    elif isinstance(value, dict):
        key = _key_of_messages(value)
        messages = value[key]
        rest = {name: field for name, field in value.items() if name != key}
    else:
        raise InvalidInputError("not a conversation: neither a list of messages nor an object")
    if not messages:
        raise InvalidInputError("the conversation has no messages")
    return messages, rest


def _key_of_messages(value: dict[str, Any]) -> str:
    keys = sorted(value, key=lambda key: USUAL_KEYS.index(key) if key in USUAL_KEYS else 99)
    for key in keys:
        if _has_messages(value[key]):
            return key
    for key in keys:
        if key in USUAL_KEYS and value[key] == []:
            return key
    raise InvalidInputError(
        "not a conversation: no key holds a list of messages with roles "
        f"({', '.join(USUAL_KEYS)} or any other)"
    )


def _has_messages(field: Any) -> bool:
    return isinstance(field, list) and any(
        isinstance(item, dict) and "role" in item for item in field[:_PEEK]
    )


def _record(number: int, message: Any) -> AnyRecord:
    try:
        record = from_openai(message)
        encode_record(record)
    except InvalidInputError as error:
        raise InvalidInputError(f"message {number}: {error}") from None
    return record


def _bytes(content: Any, value: Any) -> bytes:
    if isinstance(content, (bytes, msgspec.Raw)):
        return bytes(content)
    try:
        return msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError):
        raise InvalidInputError("the exported session is not plain JSON") from None
