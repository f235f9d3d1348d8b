"""Sessions as lines of text: the export that loses nothing, and reading it back.

Each line is a session by itself, in JSON::

    {"asynchistory": 2, "session": {...}, "keys": [...], "records": [...]}

``records`` are all of the session's, from 1 on, those included that it shares with the
one it was forked from. A record that was damaged is ``{"record_type": "corrupt", "seq": 3,
"reason": "checksum"}``. ``keys`` are idempotency keys, left out where there are none.

Lines of version 1 are read too. They have no keys, and may lack records.
Whatever is added to a line makes a new version: what is not known is refused and never lost.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from asynchistory.checks import check_session_id, check_text_id
from asynchistory.codec import (
    Row,
    decode_body,
    dump_record,
    encode_json,
    encode_record,
    to_microseconds,
)
from asynchistory.errors import InvalidInputError, InvalidRecordError
from asynchistory.queries import Session
from asynchistory.records import AnyRecord, CorruptRecord, StoredRecord
from asynchistory.storage.keys import pack, unpack
from asynchistory.storage.port import Key

#: The version that is written.
FORMAT = 2
#: What msgspec says of types and places alone; its other messages may quote content.
_SAFE = ("Expected `", "Object missing required field `", "Invalid RFC3339", "Invalid base64")


class Archived(NamedTuple):
    """A session as a line says it, checked so that storing it cannot fail half way.

    Attributes:
        session: the session, its ``seq`` the number of its records.
        records: the records that are whole.
        rows: the same, as stores take them.
        keys: its idempotency keys.
        damaged: how many records were damaged when this was exported, and are left out.
        version: the line's version of the format.
    """

    session: Session
    records: list[AnyRecord]
    rows: list[Row]
    keys: list[Key]
    damaged: int
    version: int


class _Key(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    key: str
    digest: bytes
    epoch: int
    first_seq: int
    last_seq: int
    removed: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    asynchistory: int
    session: Session
    records: list[msgspec.Raw]
    keys: list[_Key] = []


class _Mark(msgspec.Struct, tag_field="record_type", tag=CorruptRecord.record_type):
    """What stands for a record that was damaged."""

    seq: int
    reason: str

    @property
    def record(self) -> CorruptRecord:
        return CorruptRecord(session_id="", seq=self.seq, reason=self.reason)


class _Head(msgspec.Struct):
    asynchistory: Any = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_mark = msgspec.json.Decoder(_Mark).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_encode = msgspec.json.Encoder().encode


# -- writing


def line(session: Session, records: Iterable[bytes], keys: Sequence[Key] = ()) -> bytes:
    """A session as a line. ``records`` are what :func:`encoded` gives, piece by piece."""
    head = b'{"asynchistory":%d,"session":%s,' % (FORMAT, _encode(session))
    if keys:
        head += b'"keys":%s,' % _encode([_key(session.id, key) for key in keys])
    return b'%s"records":[%s]}\n' % (head, b",".join(piece for piece in records if piece))


def encoded(records: Iterable[StoredRecord]) -> bytes:
    """Some records in JSON, with commas between them."""
    return b",".join(map(_encoded, records))


def _encoded(record: StoredRecord) -> bytes:
    if isinstance(record, CorruptRecord):
        return _encode(_Mark(record.seq, record.reason))
    return dump_record(record)


def _key(session_id: str, key: Key) -> _Key:
    removed = None
    if key.removed is not None:
        removed = [msgspec.Raw(_encoded(record)) for record in unpack(session_id, key.removed)]
    return _Key(key.key, key.digest, key.epoch, key.first_seq, key.last_seq, removed)


# -- reading


def is_line(value: object) -> bool:
    """Whether a decoded JSON value is of this format, whatever its version."""
    return isinstance(value, dict) and "asynchistory" in value


def read(data: bytes) -> Archived:
    """The session that a line holds.

    Raises:
        InvalidInputError: it is malformed, of a newer version, or something else.
    """
    found = _decoded(data)
    _check_session(found.session)
    records: list[AnyRecord] = []
    rows: list[Row] = []
    gone: list[int] = []  # the seq of those that were damaged
    for place, raw in enumerate(found.records, 1):
        try:
            record = _record(bytes(raw))
            _check_place(record, place, found.asynchistory)
            if isinstance(record, CorruptRecord):
                gone.append(place)
                continue
            rows.append(encode_record(record))
            records.append(record)
        except InvalidInputError as error:
            raise InvalidInputError(f"record {place}: {error}") from None
    if found.asynchistory > 1 and found.session.seq != len(found.records):
        raise InvalidInputError(
            f"it has {len(found.records)} of the session's {found.session.seq} records"
        )
    fork_seq = min(found.session.fork_seq, len(found.records))
    session = replace(
        found.session, seq=len(rows), fork_seq=fork_seq - bisect_right(gone, fork_seq)
    )
    if len({key.key for key in found.keys}) < len(found.keys):
        raise InvalidInputError("an idempotency key is there twice")
    keys = [_moved(_read_key(key, session), session.epoch, gone) for key in found.keys]
    return Archived(session, records, rows, keys, len(gone), found.asynchistory)


def _decoded(data: bytes) -> _Line:
    try:
        found = _decode_line(data)
    except msgspec.ValidationError as error:
        raise InvalidInputError(_explained(data, error)) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidInputError("it is not JSON in UTF-8, or was cut off") from None
    if not 1 <= found.asynchistory <= FORMAT:
        raise InvalidInputError(_NEWER)
    return found


_NEWER = (
    "it is of another version of the export format; upgrade asynchistory "
    "(pip install -U asynchistory)"
)


def _explained(data: bytes, error: msgspec.ValidationError) -> str:
    try:
        version = _decode_head(data).asynchistory
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        version = None
    if version is None:
        return "it is not a session as export writes it"
    if isinstance(version, int) and version > FORMAT:
        return _NEWER
    return f"the exported session is malformed: {_safe(error)}"


def _safe(error: msgspec.ValidationError) -> str:
    text = str(error)
    return text if text.startswith(_SAFE) else "a value, a type or a field that is not known"


def _record(data: bytes) -> StoredRecord:
    try:
        return decode_body(data)
    except (ValueError, RecursionError) as error:
        with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            return _decode_mark(data).record
        if isinstance(error, msgspec.ValidationError):
            raise InvalidRecordError(_safe(error)) from None
        raise InvalidRecordError("it is not plain JSON") from None


def _check_place(record: StoredRecord, place: int, version: int) -> None:
    if version == 1:
        return
    if record.seq != place:
        raise InvalidRecordError("its seq is not its place: a record is missing, or was moved")
    if not isinstance(record, CorruptRecord) and (not record.record_id or not record.timestamp):
        raise InvalidRecordError("it has no record_id or no timestamp")


def _check_session(session: Session) -> None:
    check_session_id(session.id)
    check_text_id(session.user_id, "a user id")
    encode_json([session.title, session.metadata], "the session's title and metadata")
    for moment in (session.created_at, session.updated_at, session.expires_at):
        if moment is not None:
            to_microseconds(moment)
    if not 0 <= session.fork_seq <= session.seq < 2**63 or not 0 <= session.epoch < 2**63:
        raise InvalidInputError("the session's numbers cannot be")


def _read_key(key: _Key, session: Session) -> Key:
    check_text_id(key.key, "an idempotency key")
    numbers = (key.epoch, key.first_seq, key.last_seq)
    possible = key.epoch <= session.epoch and key.first_seq <= key.last_seq + 1
    if not possible or not all(0 <= number < 2**63 for number in numbers):
        raise InvalidInputError("the numbers of an idempotency key cannot be")
    removed = None
    if key.removed is not None:
        records = [_record(bytes(raw)) for raw in key.removed]
        whole = [record for record in records if not isinstance(record, CorruptRecord)]
        if not all(key.first_seq < record.seq <= key.last_seq for record in whole):
            raise InvalidInputError("the records of an idempotency key cannot be")
        removed = pack((record.seq, encode_record(record)) for record in whole)
    return Key(key.key, key.digest, *numbers, removed)


def _moved(key: Key, epoch: int, gone: list[int]) -> Key:
    """The key, where records that were damaged no longer stand before those that it is about."""
    if key.epoch != epoch:
        return key
    return key._replace(
        first_seq=key.first_seq - bisect_left(gone, key.first_seq),
        last_seq=key.last_seq - bisect_right(gone, key.last_seq),
    )
