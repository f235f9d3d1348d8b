"""What is checked of arguments before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from typing import get_args

from asynchistory.errors import InvalidInputError, InvalidQueryError, InvalidSessionIdError
from asynchistory.queries import (
    MAX_PAGE,
    GroupBy,
    HistoryQuery,
    SearchOrder,
    SearchQuery,
    StatisticsQuery,
)
from asynchistory.records import JSON, RECORD_TYPE_NAMES
from asynchistory.storage.calls import day_number
from asynchistory.storage.cursors import parse_cursor
from asynchistory.storage.text import SEARCHED_TYPES, search_terms

#: An id or a key takes at most this many bytes of UTF-8.
MAX_ID_BYTES = 512
#: Names that sessions can be found by at once.
MAX_FILTERS = 32
#: A search takes at most this many characters.
MAX_SEARCH = 4_096


def _id_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {type(value).__name__}"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "must be Unicode; it has a lone surrogate"
    if not 1 <= size <= MAX_ID_BYTES:
        return f"must be 1 to {MAX_ID_BYTES} bytes of UTF-8, not {size}"
    return "must not contain NUL" if "\0" in value else None


def check_session_id(session_id: str) -> None:
    """Raise :class:`~asynchistory.InvalidSessionIdError` unless this can be a session's id."""
    if (fault := _id_fault(session_id)) is not None:
        raise InvalidSessionIdError(f"a session id {fault}")


def check_text_id(value: str | None, what: str) -> None:
    """Raise :class:`~asynchistory.InvalidInputError` unless this can be a key or a user's id."""
    if value is not None and (fault := _id_fault(value)) is not None:
        raise InvalidInputError(f"{what} {fault}")


def check_seq(value: int | None, what: str) -> None:
    """Raise :class:`~asynchistory.InvalidInputError` unless this is a seq or epoch, 0, or None."""
    if value is not None and (type(value) is not int or not 0 <= value < 2**63):
        raise InvalidInputError(f"{what} must be 0 or the number of a record that you know of")


def check_metadata_filter(metadata: dict[str, JSON] | None) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless sessions can be found by this."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or len(metadata) > MAX_FILTERS:
        raise InvalidQueryError(f"a metadata filter is a dictionary of at most {MAX_FILTERS} names")
    if not all(_is_text(name) and _is_plain(value) for name, value in metadata.items()):
        raise InvalidQueryError(
            "a metadata filter maps names to the text, finite number (of 64 bits), bool or None "
            "that they must have"
        )


def _is_text(value: object) -> bool:
    try:
        return type(value) is str and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _is_plain(value: object) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return isfinite(value)
    return value is None or type(value) is bool or _is_text(value)


def check_limit(value: int, what: str = "limit", most: int = MAX_PAGE) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless 0 <= value <= most."""
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidQueryError(f"{what} must be a whole number from 0 to {most}")


def check_level(level: str) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless reads can be that current."""
    if level not in ("validated", "cached", "fresh"):
        raise InvalidQueryError("level must be 'validated', 'cached' or 'fresh'")


def check_order(order: str) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless sessions can be listed so."""
    if order not in ("updated", "created"):
        raise InvalidQueryError("sessions are listed in the order 'updated' or 'created'")


def check_query(query: HistoryQuery) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless a store can answer this."""
    if not isinstance(query, HistoryQuery):
        raise InvalidQueryError(
            "query_history takes a HistoryQuery, such as HistoryQuery('chat-1')"
        )
    check_session_id(query.session_id)
    check_limit(query.limit)
    check_limit(query.offset, "offset", 2**53)
    _check_times(query.start_time, query.end_time)
    if query.before is not None and query.after is not None:
        raise InvalidQueryError("a page is before one cursor or after one, not both")
    for cursor in (query.before, query.after):
        if cursor is not None:
            parse_cursor(cursor)
    _check_types(query.record_types, RECORD_TYPE_NAMES)
    _check_model(query.model)


def check_search(query: SearchQuery) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless a store can answer this.

    Raises:
        InvalidSessionIdError: ``session_id`` cannot be one.
        InvalidInputError: ``user_id`` cannot be one.
    """
    if query.session_id is not None:
        check_session_id(query.session_id)
    check_text_id(query.user_id, "a user id")
    check_limit(query.limit)
    _check_types(query.record_types, SEARCHED_TYPES)
    _check_times(query.start_time, query.end_time)
    if query.role is not None and not isinstance(query.role, str):
        raise InvalidQueryError("a role is text, such as 'user'")
    if query.order not in get_args(SearchOrder):
        raise InvalidQueryError(f"a search is in the order {' or '.join(get_args(SearchOrder))}")
    if isinstance(query.text, str) and len(query.text) > MAX_SEARCH:
        raise InvalidQueryError(f"a search takes at most {MAX_SEARCH} characters")
    search_terms(query.text)


def _check_times(*moments: datetime | None) -> None:
    for moment in moments:
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidQueryError("start_time and end_time need a time zone: datetime.now(UTC)")


def _check_types(names: Sequence[str] | None, known: Sequence[str]) -> None:
    if names is None:
        return
    if not isinstance(names, (tuple, list)) or not all(name in known for name in names):
        raise InvalidQueryError(f"record_types is a tuple of some of: {', '.join(known)}")


def _check_model(model: str | None) -> None:
    if model is not None and not (isinstance(model, str) and model.isprintable()):
        raise InvalidQueryError("a model's name must be printable text")


def check_statistics(query: StatisticsQuery) -> None:
    """Raise :class:`~asynchistory.InvalidQueryError` unless a store can answer this."""
    if query.session_id is not None:
        check_session_id(query.session_id)
    if query.user_id is not None and (fault := _id_fault(query.user_id)) is not None:
        raise InvalidQueryError(f"user_id {fault}")
    _check_model(query.model)
    for day in (query.since, query.until):
        if day is not None:
            day_number(day)
    if query.group_by is not None and query.group_by not in get_args(GroupBy):
        raise InvalidQueryError(f"group_by is one of {', '.join(get_args(GroupBy))}, or None")
