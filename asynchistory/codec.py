"""Records to rows and back, with checksums, and with fields of a newer version."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, get_args
from zlib import crc32

import msgspec
from msgspec.structs import replace

from asynchistory._ids import new_record_id, now_us
from asynchistory.errors import CorruptRecordError, InvalidRecordError
from asynchistory.records import (
    JSON,
    RECORD_TYPES,
    AnyPart,
    AnyRecord,
    Checkpoint,
    CorruptRecord,
    Message,
    Record,
    StoredRecord,
    Text,
    Usage,
)
from asynchistory.validation import MAX_RECORD_BYTES, checked_json, encode

T = TypeVar("T", bound=Record)

#: Record types as stores write them. A number is never given again.
TYPE_CODES: dict[str, int] = {cls.record_type: code for code, cls in enumerate(RECORD_TYPES, 1)}

_CODES: dict[type, int] = {cls: TYPE_CODES[cls.record_type] for cls in RECORD_TYPES}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: Below (in 2106) a float of seconds has the microseconds, and is the quicker way.
_EXACT = 2**32 * 1_000_000
_pack_head = struct.Struct(">Bq16s").pack
_EMPTY: dict[str, JSON] = {}
_decode = msgspec.json.Decoder(AnyRecord).decode


class Row(NamedTuple):
    """A record as a store writes it. Session and ``seq`` are the store's to give."""

    type: int
    timestamp: int  # microseconds since 1970, UTC
    record_id: bytes  # 16 bytes
    body: str  # JSON of what the other columns do not hold
    checksum: int  # CRC-32 of the other columns


#: A row as a store reads it: seq, type, timestamp, record id, body as bytes (which damage may
#: have made other than UTF-8), checksum. What comes after them is the store's own.
StoredRow: TypeAlias = Sequence[Any]
#: What decoding a damaged row raises.
_DAMAGE = struct.error, TypeError, ValueError, OverflowError, RecursionError


def encode_record(record: Record) -> Row:
    """Validate a record and turn it into a row.

    Raises:
        InvalidRecordError: the record is not plain JSON of its type.
        RecordTooLargeError: it is over 16 MiB, or deeper than 200 levels.
    """
    code = _CODES.get(type(record))
    if code is None:
        raise InvalidRecordError(
            f"expected one of the record types, got {type(record).__name__}; "
            "asynchistory.formats turns provider messages into records"
        )
    body = _text_json(record) or _record_json(record)
    now = now_us()
    timestamp = to_microseconds(record.timestamp) if record.timestamp else now
    record_id = _id_bytes(record.record_id) if record.record_id else new_record_id(now)
    checksum = crc32(body, crc32(_pack_head(code, timestamp, record_id)))
    return Row._make((code, timestamp, record_id, body.decode(), checksum))


def decode_row(session_id: str, row: StoredRow, strict: bool = False) -> StoredRecord:
    """:func:`decode_rows`, for one."""
    seq, code, timestamp, record_id, body, checksum = row[:6]
    try:
        if crc32(body, crc32(_pack_head(code, timestamp, record_id))) != checksum:
            raise ValueError("checksum")
        return replace(
            decode_body(body),
            seq=seq,
            session_id=session_id,
            record_id=record_id.hex(),
            timestamp=from_microseconds(timestamp),
        )
    except _DAMAGE as error:
        reason = "checksum" if str(error) == "checksum" else type(error).__name__
        if strict:
            raise CorruptRecordError(session_id, seq, reason) from None
        return CorruptRecord(session_id=session_id, seq=seq, reason=reason)


def decode_rows(
    session_id: str, rows: Sequence[StoredRow], strict: bool = False
) -> list[StoredRecord]:
    """Turn stored rows back into their records.

    A row that does not match its checksum or cannot be decoded gives a
    :class:`CorruptRecord`.

    Raises:
        CorruptRecordError: a row is damaged and ``strict`` is true.
    """
    if len(rows) > 1:
        with suppress(*_DAMAGE):
            return _decode_intact(session_id, rows)
    return [decode_row(session_id, row, strict) for row in rows]


def _decode_intact(session_id: str, rows: Sequence[StoredRow]) -> list[StoredRecord]:
    """Rows that have nothing amiss, column by column, which takes less time.

    Raises one of what :func:`decode_row` catches, if one has.
    """
    seqs, codes, stamps, ids, bodies, checksums, *_ = zip(*rows, strict=True)
    heads = map(_pack_head, codes, stamps, ids)
    if tuple(map(crc32, bodies, map(crc32, heads))) != checksums:
        raise ValueError("checksum")
    if min(stamps) < 0 or max(stamps) >= _EXACT:
        raise ValueError("timestamp")
    try:
        records = list(map(_decode, bodies))
    except msgspec.ValidationError:
        records = list(map(decode_body, bodies))  # there are fields that are not known yet
    moments = msgspec.convert([stamp / 1e6 for stamp in stamps], list[datetime], strict=False)
    return [
        replace(record, seq=seq, session_id=session_id, record_id=name.hex(), timestamp=moment)
        for record, seq, name, moment in zip(records, seqs, ids, moments, strict=True)
    ]


def row_record(session_id: str, seq: int, row: Row) -> StoredRecord:
    """The record that reading this row back will give."""
    code, timestamp, record_id, body, checksum = row
    return decode_row(session_id, (seq, code, timestamp, record_id, body.encode(), checksum))


def decode_body(body: bytes | str) -> AnyRecord:
    """Decode a record's JSON; fields that this version does not know go into ``extra``.

    Raises:
        ValueError: the JSON is broken or of no known record type.
    """
    try:
        return cast(AnyRecord, _decode(body))
    except msgspec.ValidationError:
        data = msgspec.json.decode(body)
        _collect_unknown(data)
        return cast(AnyRecord, msgspec.convert(data, AnyRecord))


def dump_record(record: Record) -> bytes:
    """A record as JSON with all its fields, those that this version does not know in their place.

    What it gives, :func:`decode_body` takes back. Nothing is checked.
    """
    encoded = encode(record)
    return encode(_flatten(record)) if b'"extra":' in encoded else encoded


def encode_json(value: JSON, what: str) -> str:
    """Encode metadata or another JSON value, refusing what JSON would lose.

    Raises:
        InvalidRecordError: see :func:`encode_record`.
    """
    return checked_json(value, what, msgspec.json.decode).decode()


def digest(operation: str, rows: Iterable[Row]) -> bytes:
    """What an idempotency key stands for: the operation and the bodies, without ids and times."""
    state = blake2b(operation.encode(), digest_size=16)
    for row in rows:
        body = row.body.encode()
        state.update(len(body).to_bytes(8, "big"))
        state.update(body)
    return state.digest()


def to_microseconds(moment: datetime) -> int:
    """A time with a zone as microseconds since 1970, UTC.

    Raises:
        InvalidRecordError: the time has no zone.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidRecordError(
            "a timestamp must be a datetime with a time zone, such as datetime.now(UTC)"
        )
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The reverse of :func:`to_microseconds`."""
    if 0 <= value < _EXACT:
        return datetime.fromtimestamp(value / 1e6, UTC)
    return _EPOCH + timedelta(0, 0, value)


def to_units(amount: Decimal | None) -> int | None:
    """Money as an integer of 1e-12 units."""
    return None if amount is None else int(amount.scaleb(12))


def from_units(units: int | None) -> Decimal | None:
    """The reverse of :func:`to_units`."""
    return None if units is None else Decimal(units).scaleb(-12).normalize() + Decimal(0)


def _text_json(record: Record) -> bytes | None:
    """The JSON of a new message of text alone, None for all others.

    Most records are such messages, and none of the further checks can find
    anything in one: this makes their append a sixth faster.
    """
    if (
        type(record) is not Message
        or record.seq
        or record.session_id
        or record.record_id
        or record.timestamp is not None
        or record.raw is not None
        or record.raw_format is not None
        or record.metadata != _EMPTY
        or record.extra != _EMPTY
        or type(record.role) is not str
        or not (record.name is None or type(record.name) is str)
        or type(record.parts) is not tuple
    ):
        return None
    for part in record.parts:
        if type(part) is not Text or type(part.text) is not str or part.extra != _EMPTY:
            return None
    try:
        body = encode(record)
    except UnicodeError:
        return None
    return body if len(body) <= MAX_RECORD_BYTES else None


def _record_json(record: Record) -> bytes:
    content = bare(record)
    body = checked_json(content, None, _decode)
    return encode(_flatten(content)) if b'"extra":' in body else body


def bare(record: T) -> T:
    """The record without what the store gives to it."""
    given = {"epoch": None} if isinstance(record, Checkpoint) else {}
    return replace(record, seq=0, session_id="", record_id="", timestamp=None, **given)


def _id_bytes(record_id: str) -> bytes:
    try:
        raw = bytes.fromhex(record_id)
    except (TypeError, ValueError):
        raw = b""
    if len(raw) != 16:
        raise InvalidRecordError("record_id must be 32 hexadecimal digits; leave it out to get one")
    return raw


# -- fields of a newer version -----------------------------------------------------------------

_Types: TypeAlias = dict[str, type[msgspec.Struct]]
_PARTS: _Types = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyPart)}
_RECORDS: _Types = {cls.record_type: cls for cls in RECORD_TYPES}


def _nested(data: Any) -> list[tuple[dict[str, JSON], set[str]]]:
    """The objects of our own types in a record's JSON, each with the fields that it may have."""
    places: list[tuple[Any, _Types]] = [(data, _RECORDS), (data.get("usage"), {"": Usage})]
    places += [(part, _PARTS) for part in data.get("parts") or ()]
    return [
        (place, {*cls.__struct_encode_fields__, cls.__struct_config__.tag_field or ""})
        for place, types in places
        if isinstance(place, dict)
        and (cls := types.get(str(place.get("record_type", place.get("type", ""))))) is not None
    ]


def _collect_unknown(data: Any) -> None:
    for place, known in _nested(data if isinstance(data, dict) else {}):
        if unknown := place.keys() - known:
            place["extra"] = {name: place.pop(name) for name in sorted(unknown)}


def _flatten(record: Record) -> dict[str, JSON]:
    data: dict[str, JSON] = msgspec.json.decode(encode(record))
    for place, known in _nested(data):
        extra = place.pop("extra", {})
        if taken := extra.keys() & known:
            raise InvalidRecordError(f"extra has {len(taken)} known fields; rename them")
        place.update(extra)
    return data
