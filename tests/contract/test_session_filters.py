"""Lists of sessions by metadata, alone and with the other filters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from asynchistory import AsyncHistoryManager, InvalidQueryError
from asynchistory.records import JSON
from tests.contract.chats import add

pytestmark = pytest.mark.anyio

SESSIONS: dict[str, dict[str, JSON]] = {
    "red": {"colour": "red", "size": 1},
    "blue": {"colour": "blue", "size": 1.5},
    "true": {"flag": True, "size": True},
    "false": {"flag": False, "size": False},
    "one": {"flag": 1},
    "zero": {"flag": 0},
    "null": {"flag": None, "colour": None},
    "text": {"flag": "true", "size": "1", "colour": "null"},
    "empty": {},
    "nested": {"colour": {"colour": "red"}, "size": [1], "flag": {}},
    "odd": {"a.b": 1, "$": 2, '"': 3, "": 4, "a'b": 5, "x[0]": 6, "ü🚀": 7, "%": 8, "\\": 9},
    "long": {"text": "x" * 10_000, "big": 2**53, "small": -(2**63), "tiny": 5e-324},
    "script": {"colour": "rouge", "name": "Ünïcode 🚀\n\t\\\"'"},
}


@pytest.fixture
async def filled(history: AsyncHistoryManager) -> AsyncHistoryManager:
    for number, (name, metadata) in enumerate(SESSIONS.items()):
        await history.create_session(
            name, user_id="ann" if number % 2 else "bob", metadata=metadata
        )
    return history


async def found(history: AsyncHistoryManager, metadata: Any, **options: Any) -> set[str]:
    page = await history.list_sessions(metadata=metadata, **options)
    return {session.id for session in page}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"colour": "red"}, {"red"}),
        ({"colour": "RED"}, set()),
        ({"colour": "re"}, set()),
        ({"colour": "r%"}, set()),
        ({"size": 1}, {"red"}),
        ({"size": 1.0}, {"red"}),
        ({"size": 1.5}, {"blue"}),
        ({"size": "1"}, {"text"}),
        ({"size": True}, {"true"}),
        ({"flag": True}, {"true"}),
        ({"flag": False}, {"false"}),
        ({"flag": 1}, {"one"}),
        ({"flag": 1.0}, {"one"}),
        ({"flag": 0}, {"zero"}),
        ({"flag": -0.0}, {"zero"}),
        ({"flag": None}, {"null"}),
        ({"flag": "true"}, {"text"}),
        ({"flag": ""}, set()),
        ({"colour": None}, {"null"}),
        ({"colour": "null"}, {"text"}),
        ({"none": None}, set()),
        ({}, set(SESSIONS)),
        (None, set(SESSIONS)),
        ({"a.b": 1}, {"odd"}),
        ({"$": 2}, {"odd"}),
        ({'"': 3}, {"odd"}),
        ({"": 4}, {"odd"}),
        ({"a'b": 5}, {"odd"}),
        ({"x[0]": 6}, {"odd"}),
        ({"ü🚀": 7}, {"odd"}),
        ({"%": 8, "\\": 9}, {"odd"}),
        ({"$.colour": "red"}, set()),
        ({"colour.colour": "red"}, set()),
        ({"text": "x" * 10_000}, {"long"}),
        ({"text": "x" * 9_999}, set()),
        ({"big": 2**53}, {"long"}),
        ({"big": 2**53 + 1}, set()),
        ({"small": -(2**63)}, {"long"}),
        ({"tiny": 5e-324}, {"long"}),
        ({"tiny": 0}, set()),
        ({"name": "Ünïcode 🚀\n\t\\\"'"}, {"script"}),
    ],
)
async def test_a_filter_finds_equal_values_and_no_others(
    filled: AsyncHistoryManager, wanted: dict[str, JSON] | None, names: set[str]
) -> None:
    for order in ("created", "updated"):
        assert await found(filled, wanted, order=order) == names


async def test_all_of_several_names_must_match(filled: AsyncHistoryManager) -> None:
    assert await found(filled, {"colour": "red", "size": 1}) == {"red"}
    assert await found(filled, {"colour": "red", "size": 1.5}) == set()
    assert await found(filled, {"colour": "blue", "size": 1.5}) == {"blue"}


async def test_as_many_names_as_there_may_be(history: AsyncHistoryManager) -> None:
    metadata = {f"k{number}": number for number in range(40)}
    await history.create_session("chat", metadata=metadata)

    wanted = dict(list(metadata.items())[:32])
    assert await found(history, wanted) == {"chat"}
    assert await found(history, {**wanted, "k31": 0}) == set()


async def test_filters_combine_with_the_owner(filled: AsyncHistoryManager) -> None:
    owner = (await filled.get_session("red")).user_id

    assert await found(filled, {"colour": "red"}, user_id=owner) == {"red"}
    assert await found(filled, {"colour": "red"}, user_id="ann") == set()
    assert await found(filled, {"colour": "red"}, user_id="nobody") == set()


@pytest.mark.parametrize("order", ["created", "updated"])
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_pages_of_found_sessions_have_neither_gap_nor_duplicate(
    history: AsyncHistoryManager, order: str, limit: int
) -> None:
    for number in range(14):
        await history.create_session(f"chat {number:02}", metadata={"odd": bool(number % 2)})
    listed, cursor = list[str](), None

    while True:
        page = await history.list_sessions(
            metadata={"odd": True}, order=order, limit=limit, after=cursor
        )
        listed += [session.id for session in page]
        assert len(page) <= limit
        if (cursor := page.next) is None:
            break

    wanted = [f"chat {number:02}" for number in range(1, 14, 2)]
    assert listed == (wanted if order == "created" else wanted[::-1])


async def test_metadata_is_found_as_it_is_now(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", metadata={"k": "old", "gone": 1})

    await history.update_session("chat", metadata={"k": "new"})

    assert await found(history, {"k": "old"}) == set()
    assert await found(history, {"gone": 1}) == set()
    assert await found(history, {"k": "new"}) == {"chat"}
    await history.delete_session("chat")
    assert await found(history, {"k": "new"}) == set()


async def test_a_session_made_by_a_write_has_no_metadata_to_be_found_by(
    history: AsyncHistoryManager,
) -> None:
    await add(history, "chat", "x")

    assert await found(history, {"k": None}) == set()
    assert await found(history, {}) == {"chat"}


async def test_a_fork_is_found_by_the_metadata_that_it_has(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", metadata={"k": 1})
    await history.fork("chat", "same")
    await history.fork("chat", "other", metadata={"k": 2})
    await history.fork("chat", "none", metadata={})

    assert await found(history, {"k": 1}) == {"chat", "same"}
    assert await found(history, {"k": 2}) == {"other"}


@pytest.mark.parametrize(
    ("held", "wanted"),
    [([1], "[1]"), ({"a": 1}, '{"a":1}'), ([], "[]")],
    ids=repr,
)
async def test_a_filter_does_not_find_another_value_that_is_written_alike(
    history: AsyncHistoryManager, held: Any, wanted: Any
) -> None:
    await history.create_session("chat", metadata={"k": held})

    try:
        found = await history.list_sessions(metadata={"k": wanted})
    except InvalidQueryError:  # would do for NaN, which no metadata can hold
        assert wanted != wanted
    else:
        assert found.sessions == ()


@pytest.mark.parametrize(
    "bad",
    [
        {"k": []}, {"k": {}}, {"k": ()}, {"k": b"x"}, {"k": object()}, {1: 1}, [], "k", 5, ["k"],
        {"k": float("nan")}, {"k": float("-inf")}, {"k": 2**63}, {"k": -(2**63) - 1},
        {"k": "\ud800"}, {"\ud800": 1}, {f"k{number}": 1 for number in range(33)},
    ],
    ids=lambda bad: ascii(bad)[:24],
)  # fmt: skip
async def test_a_filter_by_what_is_not_plain_is_refused(
    filled: AsyncHistoryManager, bad: Any
) -> None:
    with pytest.raises(InvalidQueryError, match="metadata filter"):
        await filled.list_sessions(metadata=bad)


# -- any value at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-2, 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)


def json_equal(one: JSON, other: JSON) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(name=st.text(max_size=6), value=SCALARS, others=st.lists(SCALARS, max_size=3))
async def test_a_session_is_found_by_the_very_value_that_it_was_given(
    history: AsyncHistoryManager, name: str, value: JSON, others: list[JSON]
) -> None:
    await history.create_session("chat", metadata={name: value, name + "x": "beside"})

    assert await found(history, {name: value}) == {"chat"}
    for other in others:
        assert bool(await found(history, {name: other})) == json_equal(other, value)
    await history.delete_session("chat")
