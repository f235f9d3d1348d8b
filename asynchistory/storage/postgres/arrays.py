"""Arrays as PostgreSQL takes them in binary: what a group of appends is sent in.

psycopg's own adaptation of lists looks at each item; these are made with two
calls an array, and the server takes them without parsing anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct, pack
from typing import TYPE_CHECKING, Any

from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_INT8, _TEXT, _BYTEA = 20, 25, 17
_head = Struct(">iiiii").pack
_size = Struct(">i").pack
_int8 = Struct(">iq").pack
_NULL = _size(-1)


class Integers(bytes):
    """A ``bigint[]``."""


class Texts(bytes):
    """A ``text[]``."""


class Blobs(bytes):
    """A ``bytea[]``."""


def integers(values: Sequence[int | None]) -> Integers:
    """An array of integers of 64 bits."""
    items = b"".join([_NULL if value is None else _int8(8, value) for value in values])
    return Integers(_array(_INT8, len(values), items))


def texts(values: Sequence[str | None]) -> Texts:
    """An array of texts without NULs."""
    encoded = [None if value is None else value.encode() for value in values]
    return Texts(_array(_TEXT, len(values), _items(encoded)))


def blobs(values: Sequence[bytes | None]) -> Blobs:
    """An array of byte strings."""
    return Blobs(_array(_BYTEA, len(values), _items(values)))


def _items(values: Iterable[bytes | None]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (_size(len(value)), value)
    return b"".join(parts)


def _array(oid: int, count: int, items: bytes) -> bytes:
    if not count:
        return pack(">iii", 0, 0, oid)
    return _head(1, 1, oid, count, 1) + items


class _Dumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Any:
        return obj


class _IntegersDumper(_Dumper):
    oid = 1016


class _TextsDumper(_Dumper):
    oid = 1009


class _BlobsDumper(_Dumper):
    oid = 1001


def register(connection: AsyncConnection[Any]) -> None:
    """Have the connection know these types."""
    adapters = connection.adapters
    adapters.register_dumper(Integers, _IntegersDumper)
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Blobs, _BlobsDumper)


# -- text that PostgreSQL cannot hold as it is


def stored(text: str) -> str:
    """The text without NULs, which PostgreSQL does not take; :func:`unstored` reverses it."""
    if "\\" in text or "\0" in text:
        return text.replace("\\", "\\\\").replace("\0", "\\0")
    return text


def unstored(text: str) -> str:
    """The reverse of :func:`stored`."""
    if "\\" not in text:
        return text
    return "\\".join(piece.replace("\\0", "\0") for piece in text.split("\\\\"))
