"""One session a line: the export that loses nothing, and reading it back.

A line is ``{"asynchistory": 1, "session": {...}, "records": [...]}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from asynchistory.cli.output import json_bytes
from asynchistory.codec import decode_body
from asynchistory.errors import InvalidInputError
from asynchistory.queries import Session
from asynchistory.records import AnyRecord, CorruptRecord, StoredRecord

FORMAT = 1
END = b"]}\n"


class Exported(NamedTuple):
    """A session as it was exported. ``damaged`` counts the records that could not be."""

    session: Session
    records: list[AnyRecord]
    damaged: int


def head(session: Session) -> bytes:
    """What stands before the records."""
    return b'{"asynchistory":%d,"session":%s,"records":[' % (FORMAT, json_bytes(session))


def body(records: Iterable[StoredRecord]) -> bytes:
    """Some records, with commas between them."""
    return b",".join(json_bytes(_plain(record)) for record in records)


def _plain(record: StoredRecord) -> Any:
    if isinstance(record, CorruptRecord):
        return {"record_type": record.record_type, "seq": record.seq, "reason": record.reason}
    return record


def is_native(value: object) -> bool:
    """Whether a decoded line is of this format, whatever its version."""
    return isinstance(value, dict) and "asynchistory" in value


def read(value: dict[str, Any]) -> Exported:
    """A decoded line as a session and its records.

    Raises:
        InvalidInputError: it is malformed, or of a newer version.
    """
    if value["asynchistory"] != FORMAT:
        raise InvalidInputError(
            "the line is of another version of the export format; upgrade asynchistory "
            "(pip install -U asynchistory)"
        )
    try:
        session = msgspec.convert(value.get("session"), Session)
        items = msgspec.convert(value.get("records"), list[dict[str, Any]])
        whole = [item for item in items if item.get("record_type") != CorruptRecord.record_type]
        records = [decode_body(msgspec.json.encode(item)) for item in whole]
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"the exported session is malformed: {_reason(error)}") from None
    except (UnicodeError, ValueError, RecursionError):
        raise InvalidInputError("the exported session is not plain JSON") from None
    return Exported(session, records, len(items) - len(whole))


def _reason(error: msgspec.ValidationError) -> str:
    # "Invalid value 'x'" would quote what is in the record.
    text = str(error)
    return text if "Invalid value" not in text else "a record of an unknown type or value"
