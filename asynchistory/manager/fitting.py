"""Which messages of a session a model can be sent: pure functions over messages in order.

Providers refuse a tool call without its result, a result without its call, and most of them
a result that does not stand right behind its call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from asynchistory.pairing import pair_tools
from asynchistory.records import CorruptRecord, Message, ToolCallPart, ToolResultPart

#: A message, or what is read in the place of a damaged record.
Item: TypeAlias = Message | CorruptRecord

#: What a model is told of a call whose tool never came to its end.
INTERRUPTED = "interrupted before its end"


class Group(NamedTuple):
    """Messages that hold together by tool calls and their results, given by their indexes.

    Attributes:
        members: in order.
        open: one of its calls has no result.
        loose: one of its results has no call here. It may have one further in front.
    """

    members: tuple[int, ...]
    open: bool
    loose: bool


class Choice(NamedTuple):
    """What fits: ``items[start:]`` but for those ``refused``, which providers do not take."""

    start: int
    refused: frozenset[int]


def groups_of(items: Sequence[Item]) -> list[Group]:
    """The groups of all messages that have tool calls or results, each in one group."""
    found = pair_tools(items)
    leaders: dict[int, int] = {}

    def leader(index: int) -> int:
        while leaders.setdefault(index, index) != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    for pair in found.pairs:
        leaders[leader(pair.result.record)] = leader(pair.call.record)
    opened = {leader(place.record) for place in found.unanswered}
    loose = {leader(place.record) for place in found.orphans}
    members: dict[int, list[int]] = {}
    for index in sorted(leaders):
        members.setdefault(leader(index), []).append(index)
    return [
        Group(tuple(indexes), first in opened, first in loose) for first, indexes in members.items()
    ]


def choose(
    items: Sequence[Item],
    cost: Callable[[Message], int],
    room: int,
    *,
    begins: bool,
    from_user: bool = False,
) -> Choice | None:
    """The longest end of ``items`` that costs no more than ``room`` and splits no group.

    Messages of groups with an open call or a loose result are refused: they cost nothing and are
    in no window. All others of a group, and what lies between them, are in it together or not
    at all.

    Args:
        items: the newest messages of a session.
        cost: what a message takes of the room, 0 or more.
        room: how much there is.
        begins: whether ``items`` are all that the session has.
        from_user: have it begin with something that the user said.

    Returns:
        None if that cannot be told without older messages.
    """
    groups = groups_of(items)
    refused = frozenset(i for group in groups if group.open or group.loose for i in group.members)
    inside = _insides(groups, len(items))
    start = len(items)
    for index in reversed(range(len(items))):
        item = items[index]
        sent = isinstance(item, Message) and index not in refused
        if isinstance(item, Message) and sent:
            room -= cost(item)
        if room < 0:
            break
        if not inside[index] and (not from_user or (sent and _from_user(item))):
            start = index
    else:
        if not begins:
            return None
    # Whether a loose result has a call in front is to be known if it would be in the window:
    # then the window has to begin behind it; else it is an orphan, which is left out.
    if not begins and any(g.loose and not g.open and g.members[-1] >= start for g in groups):
        return None
    return Choice(start, refused)


def _insides(groups: Iterable[Group], count: int) -> list[bool]:
    """For each place, whether a window that begins there would split a group."""
    changes = [0] * (count + 1)
    for group in groups:
        if not (group.open or group.loose):
            changes[group.members[0] + 1] += 1
            changes[group.members[-1] + 1] -= 1
    return [depth > 0 for depth in accumulate(changes[:count])]


def _from_user(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "user" and not item.tool_results


def in_place(messages: Sequence[Message]) -> list[Message]:
    """The messages, each result right behind its call where something was said in between."""
    places = list(range(len(messages)))
    for pair in pair_tools(messages).pairs:
        call, result = pair.call.record, pair.result.record
        if not messages[result].tool_calls:
            places[result] = call if places[result] == result else max(places[result], call)
    order = sorted(range(len(messages)), key=lambda index: (places[index], index))
    return [messages[index] for index in order]


def sendable(messages: Sequence[Message]) -> list[Message]:
    """All of the messages that providers take, in the order in which they take them."""
    refused = {
        index
        for group in groups_of(messages)
        if group.open or group.loose
        for index in group.members
    }
    return in_place([message for index, message in enumerate(messages) if index not in refused])


def interrupted(call_id: str, name: str, reason: str = INTERRUPTED) -> Message:
    """The result of a call whose tool never came to its end."""
    result = ToolResultPart(id=call_id, name=name, result=reason, is_error=True)
    return Message(role="tool", parts=(result,))


def interruptions(messages: Sequence[Message]) -> list[Message]:
    """A result for each call that has none, in order."""
    answers = []
    for place in pair_tools(messages).unanswered:
        call = messages[place.record].parts[place.part]
        assert isinstance(call, ToolCallPart)
        answers.append(interrupted(call.id, call.name))
    return answers
