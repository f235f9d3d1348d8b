"""Tool call ids that Anthropic accepts. See :func:`.anthropic.conversation_to_anthropic`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from asynchistory.pairing import Position, ToolPair, pair_tools
from asynchistory.records import AnyPart, Message, ToolCallPart, ToolResultPart

_VALID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_INVALID = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)


def with_unique_ids(
    records: list[Message], changeable: Callable[[Message, Message], bool]
) -> list[Message]:
    """The records, with new ids for calls that repeat one or have an invalid one.

    Only a call that has a result is changed, and only where ``changeable`` allows it for the
    call's message and the result's.
    """
    calls = [call.id for record in records for call in record.tool_calls]
    if len(set(calls)) == len(calls) and all(map(_VALID.fullmatch, calls)):
        return records
    pairs = [
        pair
        for pair in sorted(pair_tools(records).pairs)
        if changeable(records[pair.call.record], records[pair.result.record])
    ]
    parts = [list(record.parts) for record in records]
    for pair, new in _new_ids(records, pairs):
        for position in pair:
            _rename(parts, position, new)
    return [
        # A payload of another provider stays; an own one is not changeable.
        record if record.parts == tuple(changed) else replace(record, parts=tuple(changed))
        for record, changed in zip(records, parts, strict=True)
    ]


def _new_ids(records: list[Message], pairs: list[ToolPair]) -> list[tuple[ToolPair, str]]:
    changing = {pair.call for pair in pairs}
    ids = {
        Position(index, place): part.id
        for index, record in enumerate(records)
        for place, part in enumerate(record.parts)
        if isinstance(part, ToolCallPart)
    }
    seen = {name for position, name in ids.items() if position not in changing}
    taken, counts = set(ids.values()), Counter[str]()
    changes = []
    for pair in pairs:
        old = ids[pair.call]
        if old in seen or not _VALID.fullmatch(old):
            changes.append((pair, _fresh(old, taken, counts)))
        seen.add(old)
    return changes


def _fresh(old: str, taken: set[str], counts: Counter[str]) -> str:
    base = _INVALID.sub("_", old) or "call"
    new = base
    while new in taken:
        counts[base] += 1
        new = f"{base}_{counts[base] + 1}"
    taken.add(new)
    return new


def _rename(parts: list[list[AnyPart]], position: Position, new: str) -> None:
    part = parts[position.record][position.part]
    if isinstance(part, (ToolCallPart, ToolResultPart)):
        parts[position.record][position.part] = replace(part, id=new)
