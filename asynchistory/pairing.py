"""Which tool result answers which tool call.

Ids alone do not say: real conversations repeat them. A result belongs to the nearest
preceding call of its id that has no result yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from asynchistory.records import CorruptRecord, Message, Record, ToolCallPart, ToolResultPart


class Position(NamedTuple):
    """Where a part stands: the index of its record in what was given, and its own in that."""

    record: int
    part: int


class ToolPair(NamedTuple):
    """A call and the result that answers it."""

    call: Position
    result: Position


class ToolPairs(NamedTuple):
    """How the tool calls and tool results of some records belong together.

    Attributes:
        pairs: each answered call with its result, in the order of the results.
        unanswered: the calls without a result, in order.
        orphans: the results without a call, in order.
    """

    pairs: tuple[ToolPair, ...]
    unanswered: tuple[Position, ...]
    orphans: tuple[Position, ...]


def pair_tools(records: Iterable[Record | CorruptRecord]) -> ToolPairs:
    """Pair the tool calls and tool results in the parts of messages, in linear time.

    Records that are not messages, damaged ones among them, have no parts and are passed over.
    """
    pairs: list[ToolPair] = []
    orphans: list[Position] = []
    open_calls: dict[str, list[Position]] = {}
    # A dict for its order, from which an answered call is taken in constant time.
    unanswered: dict[Position, None] = {}
    for here, part in _tool_parts(records):
        calls = open_calls.setdefault(part.id, [])
        if isinstance(part, ToolCallPart):
            calls.append(here)
            unanswered[here] = None
        elif calls:
            call = calls.pop()
            del unanswered[call]
            pairs.append(ToolPair(call, here))
        else:
            orphans.append(here)
    return ToolPairs(tuple(pairs), tuple(unanswered), tuple(orphans))


def _tool_parts(
    records: Iterable[Record | CorruptRecord],
) -> Iterator[tuple[Position, ToolCallPart | ToolResultPart]]:
    for index, record in enumerate(records):
        for place, part in enumerate(record.parts if isinstance(record, Message) else ()):
            if isinstance(part, (ToolCallPart, ToolResultPart)):
                yield Position(index, place), part
