"""What is refused of a record or another JSON value, because it would not come back as it is.

A record is accepted when it is equal to what its own JSON decodes to. That one
comparison refuses everything that JSON would lose or change (NaN, infinity,
tuples, non-string keys, dates, bytes, wrong field types), whatever its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from asynchistory.errors import InvalidRecordError, RecordTooLargeError
from asynchistory.records import JSON, MONEY_UNIT, Cost, LLMResponse, Record, TokenUsage, Usage

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

_PLAIN = "use only None, bool, numbers, text, lists and objects"
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def checked_json(value: Any, what: str | None, decode: Callable[[bytes], Any]) -> bytes:
    """The JSON of a value, which ``decode`` takes back to what is equal to it.

    Raises:
        InvalidRecordError: it would not, or a field is out of bounds. ``what`` names the value;
            None is for a record.
        RecordTooLargeError: it is over 16 MiB, or deeper than 200 levels.
    """
    try:
        body = encode(value)
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
