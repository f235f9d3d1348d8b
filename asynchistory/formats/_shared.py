"""What both formats need: a checked private copy, strict equality, keeping the original."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from asynchistory.codec import encode_json
from asynchistory.errors import InvalidRecordError
from asynchistory.records import JSON, Blob, CorruptRecord, Message, Record, Uri

#: A message as a provider's API takes and gives it.
Payload: TypeAlias = dict[str, Any]

_canonical = msgspec.json.Encoder(order="deterministic").encode


def checked(message: object, provider: str) -> Payload:
    """A private copy of a provider's message.

    Raises:
        InvalidRecordError: it is not a mapping of plain JSON with a role, or its content is
            neither text, a list, nor None.
        RecordTooLargeError: it is over 16 MiB, or deeper than 200 levels.
    """
    if not isinstance(message, Mapping):
        raise InvalidRecordError(
            f"expected a mapping as {provider} message, got {type(message).__name__}; "
            "an SDK's message object has model_dump()"
        )
    data: Payload = copied(encode_json(dict(message), f"the {provider} message"))
    role = data.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRecordError(f"the {provider} message has no role; give it one such as 'user'")
    content = data.get("content")
    if content is not None and not isinstance(content, (str, list)):
        raise InvalidRecordError(
            f"the content of the {provider} message is of type {type(content).__name__}; "
            "it must be text or a list"
        )
    return data


def copied(body: str) -> Any:
    """The values of a JSON text, shared with nobody."""
    return msgspec.json.decode(body)


def private(value: JSON) -> Any:
    """A deep copy of JSON values."""
    return msgspec.json.decode(msgspec.json.encode(value))


def keep_lossless(
    record: Message, payload: Payload, generate: Callable[[Message], Payload], raw_format: str
) -> Message:
    """The record, with the payload beside it where the parts do not give exactly that back."""
    if equal(generate(record), payload):
        return record
    return replace(record, raw=payload, raw_format=raw_format)


def equal(one: JSON, other: JSON) -> bool:
    """Whether two values are the same JSON; to Python, 1, 1.0 and True would be equal."""
    return bool(_canonical(one) == _canonical(other))


def messages_of(records: Iterable[Record | CorruptRecord]) -> list[Message]:
    """The messages among the records of a session."""
    return [record for record in records if isinstance(record, Message)]


def text_of(value: JSON) -> str:
    """A JSON value as JSON text."""
    return msgspec.json.encode(value).decode()


def string(value: JSON) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


def from_base64(data: JSON) -> bytes | None:
    """The bytes of standard base64 text; None for anything else."""
    try:
        return base64.b64decode(data, validate=True) if isinstance(data, str) else None
    except (binascii.Error, ValueError):
        return None


def to_base64(data: bytes) -> str:
    """Standard base64 text."""
    return base64.b64encode(data).decode()


def is_image(part: Blob | Uri) -> bool:
    """Whether a part goes out as an image. A Uri of unknown type does: both APIs say so."""
    if part.mime_type is None:
        return isinstance(part, Uri)
    return part.mime_type.startswith("image/")


def left_out(part: Blob) -> str:
    """What stands in the place of bytes that a provider takes in no form."""
    return f"[{part.mime_type or 'data'}, {len(part.data)} bytes, left out]"
