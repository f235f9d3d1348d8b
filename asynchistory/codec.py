"""Records to rows and back: validation, bounds, checksums.

A record is accepted when it is equal to what its own JSON decodes to. That one
comparison refuses everything that JSON would lose or change (NaN, infinity,
tuples, non-string keys, dates, bytes, wrong field types), whatever its cause.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, get_args
from zlib import crc32

import msgspec
from msgspec.structs import replace

from asynchistory._ids import new_record_id, now_us
from asynchistory.errors import CorruptRecordError, InvalidRecordError, RecordTooLargeError
from asynchistory.records import (
    JSON,
    MONEY_UNIT,
    RECORD_TYPES,
    AnyPart,
    AnyRecord,
    Checkpoint,
    CorruptRecord,
    Cost,
    LLMResponse,
    Message,
    Record,
    StoredRecord,
    Text,
    TokenUsage,
    Usage,
)

T = TypeVar("T", bound=Record)

#: A record takes at most this many bytes as JSON.
MAX_RECORD_BYTES = 16 * 1024 * 1024
#: JSON nests at most this deep.
MAX_DEPTH = 200
#: Tokens of one call: so few that the sums over millions of calls stay within 64 bits.
MAX_TOKENS = 10**12
#: Seconds of one call.
MAX_SECONDS = 1e9
#: Money of one call, in units of its currency: what 64 bits hold at 1e-12 a unit.
MAX_MONEY = 9_000_000

#: Record types as stores write them. A number is never given again.
TYPE_CODES: dict[str, int] = {cls.record_type: code for code, cls in enumerate(RECORD_TYPES, 1)}

_CODES: dict[type, int] = {cls: TYPE_CODES[cls.record_type] for cls in RECORD_TYPES}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: Below (in 2106) a float of seconds has the microseconds, and is the quicker way.
_EXACT = 2**32 * 1_000_000
_pack_head = struct.Struct(">Bq16s").pack
_PLAIN = "use only None, bool, numbers, text, lists and objects"
_EMPTY: dict[str, JSON] = {}
_encode = msgspec.json.Encoder().encode
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
    encoded = _encode(record)
    return _encode(_flatten(record)) if b'"extra":' in encoded else encoded


def encode_json(value: JSON, what: str) -> str:
    """Encode metadata or another JSON value, refusing what JSON would lose.

    Raises:
        InvalidRecordError: see :func:`encode_record`.
    """
    return _checked_json(value, what, msgspec.json.decode).decode()


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
        body = _encode(record)
    except UnicodeError:
        return None
    return body if len(body) <= MAX_RECORD_BYTES else None


def _record_json(record: Record) -> bytes:
    content = bare(record)
    body = _checked_json(content)
    return _encode(_flatten(content)) if b'"extra":' in body else body


def bare(record: T) -> T:
    """The record without what the store gives to it."""
    given = {"epoch": None} if isinstance(record, Checkpoint) else {}
    return replace(record, seq=0, session_id="", record_id="", timestamp=None, **given)


# -- what is refused ---------------------------------------------------------------------------


def _checked_json(
    value: Any, what: str | None = None, decode: Callable[[bytes], Any] = _decode
) -> bytes:
    try:
        body = _encode(value)
        if len(body) > 2 * MAX_DEPTH:  # what is shorter cannot nest deeper
            _check_bounds(body, what or _name(value))
        if decode(body) != value:
            raise InvalidRecordError(
                f"{what or _name(value)} is not plain JSON: {_describe_loss(value)}"
            )
    except RecursionError:
        raise RecordTooLargeError(
            f"{what or _name(value)} contains itself or nests more than {MAX_DEPTH} levels; "
            "flatten it"
        ) from None
    except InvalidRecordError:
        raise
    except UnicodeError:
        raise InvalidRecordError(
            f"{what or _name(value)} has text with a lone surrogate, which is not Unicode; "
            "decode its source with errors='replace'"
        ) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRecordError(
            f"{what or _name(value)} is malformed: {_safe_reason(error)}"
        ) from None
    if isinstance(value, Record) and (check := _FIELD_CHECKS.get(type(value))):
        check(value)
    return body


def _name(record: Record) -> str:
    return f"the {record.record_type} record"


def _check_bounds(body: bytes, what: str) -> None:
    if len(body) > MAX_RECORD_BYTES:
        raise RecordTooLargeError(
            f"{what} takes {len(body)} bytes as JSON, over the limit of {MAX_RECORD_BYTES}; "
            "store large content elsewhere and keep a Uri or File part"
        )
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > MAX_DEPTH and _depth(msgspec.json.decode(body)) > MAX_DEPTH:
        raise RecordTooLargeError(f"{what} nests more than {MAX_DEPTH} levels; flatten it")


def _depth(value: JSON) -> int:
    level, depth = [value], 0
    while level := [item for item in level if type(item) in (dict, list)]:
        depth += 1
        level = [
            child for item in level for child in (item.values() if type(item) is dict else item)
        ]
    return depth


def _describe_loss(value: Any) -> str:
    """Which kind of value would not come back from JSON as it is. Never the value itself."""
    todo = [msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value]
    while todo:
        item = todo.pop()
        if isinstance(item, msgspec.Struct):
            todo += msgspec.structs.asdict(item).values()
        elif type(item) is dict:
            if any(not isinstance(key, str) for key in item):
                return "an object has keys that are not strings; use str(key)"
            todo += item.values()
        elif type(item) in (list, tuple) and not (type(item) is tuple and _is_json_tuple(item)):
            todo += item
        elif type(item) is tuple:
            return "it holds a tuple; use a list"
        elif type(item) is float and (item != item or item in (float("inf"), float("-inf"))):
            return "it holds NaN or an infinity; use None or text"
        elif not isinstance(item, (str, int, float, type(None), bytes, Decimal, list)):
            return f"it holds a {type(item).__name__}; convert it to text or numbers"
    return (
        "it changes on the way through JSON; use only None, bool, numbers, text, lists and objects"
    )


def _is_json_tuple(value: tuple[Any, ...]) -> bool:
    return not all(isinstance(item, msgspec.Struct) for item in value)


def _safe_reason(error: Exception) -> str:
    # "Expected `str`, got `int` - at `$.role`" names types and places. Others quote content.
    if isinstance(error, msgspec.ValidationError) and str(error).startswith("Expected `"):
        return str(error)
    return f"{type(error).__name__}; {_PLAIN}"


def _check_usage(record: TokenUsage | Usage, what: str = "token_usage") -> None:
    for name in Usage.__struct_fields__[1:]:
        count = getattr(record, name)
        if count is not None and not 0 <= count <= MAX_TOKENS:
            raise InvalidRecordError(f"{name} of a {what} record must be 0 to 10**12")


def _check_response(record: LLMResponse) -> None:
    if record.usage is not None:
        _check_usage(record.usage, "llm_response")
    for name in ("response_time", "time_to_first_token"):
        seconds: float | None = getattr(record, name)
        if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
            raise InvalidRecordError(f"{name} must be 0 to {MAX_SECONDS:g} seconds")


def _check_cost(record: Cost) -> None:
    if not record.currency:
        raise InvalidRecordError("a cost needs its currency, such as USD")
    for name in ("input_cost", "output_cost", "total_cost"):
        amount: object = getattr(record, name)
        if amount is None:
            continue
        if not isinstance(amount, Decimal):
            raise InvalidRecordError(f"{name} must be a Decimal; asynchistory.money() makes one")
        if not amount.is_finite() or abs(amount) > MAX_MONEY or amount % MONEY_UNIT:
            raise InvalidRecordError(
                f"{name} must be finite, at most {MAX_MONEY} and of at most 12 decimal places; "
                "asynchistory.money() rounds an amount to that"
            )


_FIELD_CHECKS: dict[type, Callable[[Any], None]] = {
    TokenUsage: _check_usage,
    LLMResponse: _check_response,
    Cost: _check_cost,
}


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
    data: dict[str, JSON] = msgspec.json.decode(_encode(record))
    for place, known in _nested(data):
        extra = place.pop("extra", {})
        if taken := extra.keys() & known:
            raise InvalidRecordError(f"extra has {len(taken)} known fields; rename them")
        place.update(extra)
    return data
