"""What a model can be sent: groups, the longest end that fits, and the order of results."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from asynchistory import CorruptRecord, Message, Text, ToolCallPart, ToolResultPart, estimate_tokens
from asynchistory.manager.fitting import (
    Choice,
    Group,
    Item,
    choose,
    groups_of,
    in_place,
    interruptions,
    sendable,
)
from asynchistory.pairing import pair_tools
from tests.contract.calling import call, result

DAMAGED = CorruptRecord(session_id="s", seq=1, reason="checksum")


def user(text: str = "hi") -> Message:
    return Message.of("user", text)


def chosen(items: Sequence[Item], room: int, **options: bool) -> list[int]:
    """The indexes of what fits if each message takes 1."""
    choice = choose(items, lambda _: 1, room, **{"begins": True, **options})
    assert choice is not None
    return indexes(items, choice)


def indexes(items: Sequence[Item], choice: Choice) -> list[int]:
    return [
        index
        for index in range(choice.start, len(items))
        if isinstance(items[index], Message) and index not in choice.refused
    ]


# -- examples


def test_groups() -> None:
    items = [user(), call("a", "b"), result("b"), user(), result("a"), call("a"), result("c")]
    assert groups_of(items) == [
        Group((1, 2, 4), open=False, loose=False),
        Group((5,), open=True, loose=False),
        Group((6,), open=False, loose=True),
    ]


def test_a_message_with_two_results_joins_the_groups_of_their_calls() -> None:
    items = [call("a"), call("b"), result("a", "b"), call("x"), result("x")]
    assert groups_of(items) == [Group((0, 1, 2), False, False), Group((3, 4), False, False)]


@pytest.mark.parametrize(
    ("room", "left"), [(1, []), (2, []), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_a_group_is_in_it_as_a_whole_or_not_at_all(room: int, left: list[int]) -> None:
    assert chosen([user(), call("a", "b"), result("a"), result("b")], room) == left


def test_what_lies_between_a_call_and_its_result_belongs_to_them() -> None:
    items = [user(), call("a"), user("wait"), result("a"), user("and?")]
    assert [chosen(items, room) for room in (1, 2, 3)] == [[4], [4], [4]]
    assert chosen(items, 4) == [1, 2, 3, 4]


def test_groups_that_overlap_stand_and_fall_together() -> None:
    items = [call("a"), call("b"), result("a"), result("b")]
    assert [chosen(items, room) for room in (1, 2, 3, 4)] == [[], [], [], [0, 1, 2, 3]]


def test_an_open_call_is_refused_with_the_results_beside_it_and_nothing_else() -> None:
    items = [user(), call("a", "b"), result("a"), user("hello?")]
    assert chosen(items, 2) == [0, 3]


def test_orphans_are_refused_and_take_no_room() -> None:
    items = [user(), result("a"), call("b"), result("b"), result("b"), user()]
    assert chosen(items, 4) == [0, 2, 3, 5]


def test_damaged_records_take_no_room() -> None:
    assert chosen([user(), DAMAGED, user()], 2) == [0, 2]


def test_beginning_with_a_user_s_message() -> None:
    items = [user(), call("a"), result("a"), Message.of("assistant", "so"), user(), result("x")]
    assert chosen(items, 3, from_user=True) == [4]
    assert chosen(items, 5, from_user=True) == [0, 1, 2, 3, 4]
    assert chosen(items[:4], 3, from_user=True) == []


def test_more_is_read_only_where_that_can_change_the_answer() -> None:
    items = [user(), call("a"), result("a"), user()]
    assert choose(items, lambda _: 1, 3, begins=False) == Choice(1, frozenset())
    assert choose(items, lambda _: 1, 4, begins=False) is None  # what is before may be refused
    # The call of the result may be in front: then the window begins behind it, else before.
    loose = [user(), user(), result("a"), user()]
    assert choose(loose, lambda _: 1, 2, begins=False) is None
    assert choose(loose, lambda _: 1, 2, begins=True) == Choice(1, frozenset({2}))
    assert choose([call("a"), *loose], lambda _: 1, 2, begins=False) == Choice(4, frozenset())
    # So may that of a group which the window would only hold the end of.
    chain = Message(role="assistant", parts=(ToolResultPart(id="a"), *call("b").parts))
    linked = [chain, user(), user(), result("b"), user()]
    assert choose(linked, lambda _: 1, 2, begins=False) is None
    assert chosen([call("a"), *linked], 2) == [5]
    # Not if the window does not get there anyway.
    far = choose([result("a"), user(), user()], lambda _: 1, 1, begins=False)
    assert far == Choice(2, frozenset({0}))


def test_results_are_put_behind_their_calls() -> None:
    items = [call("a", "b"), user(), result("b"), call("c"), result("c"), result("a"), user()]
    assert in_place(items) == [items[i] for i in (0, 2, 5, 1, 3, 4, 6)]


def test_a_message_that_answers_two_stands_behind_the_later_one() -> None:
    items = [call("a"), call("b"), user(), result("b", "a")]
    assert in_place(items) == [items[i] for i in (0, 1, 3, 2)]


def test_what_is_in_order_stays_as_it_is() -> None:
    both = Message(role="user", parts=(ToolResultPart(id="a"), Text(text="so?")))
    items = [user(), call("a"), both, call("a", "b"), result("a"), result("b"), user()]
    assert in_place(items) == items == sendable(items)


def test_a_result_that_calls_on_stays_in_its_place() -> None:
    on = Message(role="assistant", parts=(ToolResultPart(id="a"), ToolCallPart(id="b", name="f")))
    items = [call("a"), user(), on, result("b")]
    assert in_place(items) == items


# -- against the definition


PARTS = st.builds(
    lambda kind, name: (
        ToolCallPart(id=name, name="f") if kind == "call"
        else ToolResultPart(id=name) if kind == "result"
        else Text(text=name)
    ),
    st.sampled_from(["call", "result", "result", "text"]),
    st.sampled_from("ab"),
)  # fmt: skip
MESSAGES = st.builds(
    lambda role, parts, cost: Message(role=role, parts=tuple(parts), name=str(cost)),
    st.sampled_from(["user", "assistant", "tool", "system"]),
    st.lists(PARTS, max_size=3),
    st.integers(0, 5),
)
ITEMS = st.lists(MESSAGES | st.just(DAMAGED), max_size=12)


def refused_of(items: Sequence[Item]) -> set[int]:
    """What is refused, as the documentation says it."""
    pairs = pair_tools(items)
    refused = {place.record for place in (*pairs.unanswered, *pairs.orphans)}
    while True:
        more = {
            place.record
            for pair in pairs.pairs
            if refused & {place.record for place in pair}
            for place in pair
        }
        if more <= refused:
            return refused
        refused |= more


def cost(item: Item) -> int:
    return int(item.name or 0) if isinstance(item, Message) else 0


def by_definition(items: Sequence[Item], room: int, from_user: bool) -> list[int]:
    refused = refused_of(items)
    pairs = [pair for pair in pair_tools(items).pairs if pair.call.record not in refused]
    for start in range(len(items)):
        kept = [
            index
            for index in range(start, len(items))
            if isinstance(items[index], Message) and index not in refused
        ]
        split = any(pair.call.record < start <= pair.result.record for pair in pairs)
        first = items[start]
        begins_well = not from_user or (
            start in kept
            and isinstance(first, Message)
            and first.role == "user"
            and not first.tool_results
        )
        if not split and begins_well and sum(cost(items[index]) for index in kept) <= room:
            return kept
    return []


@given(ITEMS, st.integers(0, 20), st.booleans())
def test_the_longest_that_fits(items: list[Item], room: int, from_user: bool) -> None:
    wanted = by_definition(items, room, from_user)
    choice = choose(items, cost, room, begins=True, from_user=from_user)

    assert choice is not None
    assert indexes(items, choice) == wanted
    pairs = pair_tools([items[index] for index in wanted])
    assert not pairs.unanswered
    assert not pairs.orphans
    # The same window is found from the newest alone, or it is not told.
    for known in range(len(items)):
        partial = choose(items[known:], cost, room, begins=False, from_user=from_user)
        if partial is not None:
            assert [known + index for index in indexes(items[known:], partial)] == wanted


@given(st.lists(MESSAGES, max_size=12))
def test_what_is_sendable(messages: list[Message]) -> None:
    sent = sendable(messages)

    refused = refused_of(messages)
    kept = [message for index, message in enumerate(messages) if index not in refused]
    assert sorted(map(id, sent)) == sorted(map(id, kept))
    pairs = pair_tools(sent)
    assert not pairs.unanswered
    assert not pairs.orphans
    # A message that only answers calls of one message has nothing but other answers before it.
    for index, message in enumerate(sent):
        calls = {pair.call.record for pair in pairs.pairs if pair.result.record == index}
        if len(calls) == 1 and not message.tool_calls:
            [asking] = calls
            for between in range(asking + 1, index):
                assert sent[between].tool_results
                assert not sent[between].tool_calls


@given(st.lists(MESSAGES, max_size=12))
def test_interruptions_leave_nothing_open(messages: list[Message]) -> None:
    before = pair_tools(messages)
    mended = [*messages, *interruptions(messages)]
    after = pair_tools(mended)
    assert not after.unanswered
    assert after.orphans == before.orphans
    assert interruptions(mended) == []


# -- tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 4), ("word " * 80, 104), ("ж" * 80, 54), ("漢" * 80, 84), ("🚀" * 8, 15)],
)
def test_tokens_of_texts_by_script(text: str, tokens: int) -> None:
    assert estimate_tokens(user(text)) == tokens
