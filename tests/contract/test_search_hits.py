"""The hits of a search: filters, order, snippets, forks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asynchistory import (
    AsyncHistoryManager,
    InvalidInputError,
    InvalidQueryError,
    InvalidSessionIdError,
    Message,
    Reasoning,
    Text,
    ToolCall,
)
from asynchistory.queries import SearchHit

pytestmark = pytest.mark.anyio

START = datetime(2024, 2, 29, tzinfo=UTC)


async def found(history: AsyncHistoryManager, text: str, **options: Any) -> list[tuple[str, int]]:
    hits = await history.search(text, **options)
    return [(hit.record.session_id, hit.record.seq) for hit in hits]


def shown(hit: SearchHit) -> str:
    """The snippet, with its highlights in brackets."""
    text = hit.snippet
    for start, end in reversed(hit.highlights):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text


# -- what a hit is


async def test_a_hit_is_the_record_as_every_read_gives_it(history: AsyncHistoryManager) -> None:
    await history.record_message("chat", "user", "something else")
    await history.record_message("chat", "user", "a needle", metadata={"k": [1]})
    await history.record_tool_call("chat", "needle", output={"x": 1})

    assert [hit.record for hit in await history.search("needle")] == [
        record for record in reversed(await history.last("chat")) if record.seq > 1
    ]


@pytest.mark.parametrize(
    ("text", "query", "wanted"),
    [
        ("my order 42?", "ORDER 42", "my [order] [42]?"),
        ("Die Straße", "strasse", "Die [Straße]"),
        ("İİ ﬁne", "fi", "İİ [ﬁ]ne"),
        ("cafe\u0301!", "Café", "[cafe\u0301]!"),
        ("今天天气很好", "天气", "今天[天气]很好"),
        ("two\n\n lines", "lines", "two [lines]"),
        ("x" * 50 + "needle" + "y" * 100, "needle", "…" + "x" * 30 + "[needle]" + "y" * 84 + "…"),
    ],
)
async def test_a_snippet_shows_where_it_matched(
    history: AsyncHistoryManager, text: str, query: str, wanted: str
) -> None:
    await history.record_message("chat", "user", text)

    [hit] = await history.search(query)

    assert shown(hit) == wanted


async def test_a_snippet_is_of_whatever_part_matched(history: AsyncHistoryManager) -> None:
    await history.append(
        "chat",
        Message.of("assistant", [Text(text="alpha"), Reasoning(text="beta needle")]),
        ToolCall(name="t", input={"q": "needle"}, error="gamma"),
    )

    call, message = await history.search("needle")

    assert shown(message) == "alpha beta [needle]"
    assert shown(call) == 't {"q":"[needle]"} gamma'


# -- canonical equivalence


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "CAF\u00c9"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("한글", "\u1112\u1161\u11ab"),
        ("ệ", "e\u0323\u0302"),
        ("\u212bngstro\u0308m", "ångström"),
        ("\u03a5\u0345 x", "υι x"),
    ],
)
async def test_how_marks_are_encoded_makes_no_difference(
    history: AsyncHistoryManager, text: str, query: str
) -> None:
    await history.record_message("chat", "user", text)

    assert await found(history, query) == [("chat", 1)]


@pytest.mark.parametrize("query", ["cafe", "\u0301", "하", "ang"])
async def test_a_letter_is_not_found_in_one_with_marks(
    history: AsyncHistoryManager, query: str
) -> None:
    await history.record_message("chat", "user", "cafe\u0301 한글 ånd")

    assert await found(history, query) == []


async def test_thai_is_found_by_its_letters(history: AsyncHistoryManager) -> None:
    await history.record_message("chat", "user", "กำลังกินข้าว")

    for query in ("กิน", "ก", "ข้าว", "ลัง"):
        assert await found(history, query) == [("chat", 1)]


# -- filters


async def fill(history: AsyncHistoryManager) -> None:
    """Six records over six hours, in which there is the word."""
    records = [
        Message.of("user", "word"),
        Message.of("assistant", "word"),
        ToolCall(name="word"),
        Message.of("tool", "word"),
        Message.of("user", "word"),
        ToolCall(name="word"),
    ]
    for hour, record in enumerate(records):
        values = {name: getattr(record, name) for name in record.__struct_fields__}
        moment = START + timedelta(hours=hour)
        await history.append("chat", type(record)(**{**values, "timestamp": moment}))


@pytest.mark.parametrize(
    ("options", "seqs"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"record_types": ("message",)}, [5, 4, 2, 1]),
        ({"record_types": ("tool_call",)}, [6, 3]),
        ({"record_types": ("tool_call", "message")}, [6, 5, 4, 3, 2, 1]),
        ({"record_types": ()}, []),
        ({"role": "user"}, [5, 1]),
        ({"role": "tool"}, [4]),
        ({"role": "none"}, []),
        ({"role": "user", "record_types": ("tool_call",)}, []),
        ({"start_time": START + timedelta(hours=3)}, [6, 5, 4]),
        ({"end_time": START + timedelta(hours=3)}, [3, 2, 1]),
        ({"start_time": START + timedelta(hours=2, microseconds=1)}, [6, 5, 4]),
        ({"start_time": START, "end_time": START}, []),
        ({"start_time": START, "role": "user", "limit": 1}, [5]),
    ],
    ids=str,
)
async def test_filters(
    history: AsyncHistoryManager, options: dict[str, Any], seqs: list[int]
) -> None:
    await fill(history)

    for order in ("newest", "rank"):
        for session_id in (None, "chat"):
            hits = await found(history, "word", session_id=session_id, order=order, **options)
            assert [seq for _, seq in hits] == seqs, (order, session_id)


@pytest.mark.parametrize(
    "options",
    [
        {"record_types": ("llm_request",)},
        {"record_types": "message"},
        {"role": 5},
        {"order": "oldest"},
        {"order": None},
        {"start_time": datetime(2024, 1, 1)},
        {"end_time": "2024-01-01"},
        {"limit": -1},
        {"limit": 10_001},
        {"limit": True},
    ],
    ids=str,
)
async def test_what_cannot_be_asked_for_is_refused(
    history: AsyncHistoryManager, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidQueryError):
        await history.search("word", **options)


async def test_a_search_that_is_too_long_is_refused(history: AsyncHistoryManager) -> None:
    await history.record_message("chat", "user", "x" * 5_000)

    assert await found(history, "x" * 4_096) == [("chat", 1)]
    with pytest.raises(InvalidQueryError, match="4096 characters"):
        await history.search("x" * 4_097)


async def test_ids_that_cannot_be_are_refused(history: AsyncHistoryManager) -> None:
    with pytest.raises(InvalidSessionIdError):
        await history.search("word", session_id="")
    with pytest.raises(InvalidInputError):
        await history.search("word", user_id="")


# -- order


async def test_rank_puts_the_text_first_that_has_most_of_the_words(
    history: AsyncHistoryManager,
) -> None:
    texts = [
        "needle in a long text, " + "hay " * 200,
        "needle needle needle in a long text, " + "hay " * 200,
        "needle",
        "a needle in a short text",
        "hay",
    ]
    await history.append("chat", *(Message.of("user", text) for text in texts))

    ranked = [seq for _, seq in await found(history, "needle", order="rank")]

    assert ranked == [3, 4, 2, 1]
    assert await found(history, "needle", order="rank", limit=2) == [("chat", 3), ("chat", 4)]
    assert await found(history, "needle", order="rank", limit=1) == [("chat", 3)]
    assert await found(history, "needle", order="rank", limit=0) == []


async def test_of_equal_rank_the_newest_is_first(history: AsyncHistoryManager) -> None:
    for session_id in "abc":
        await history.record_message(session_id, "user", "needle")

    for limit in (1, 2, 3):
        assert await found(history, "needle", order="rank", limit=limit) == [
            ("c", 1), ("b", 1), ("a", 1),
        ][:limit]  # fmt: skip


# -- forks, and what was changed


async def forked(history: AsyncHistoryManager) -> None:
    await history.append("chat", *(Message.of("user", f"word {number}") for number in (1, 2, 3)))
    await history.fork("chat", "fork", at_seq=2)
    await history.append("fork", Message.of("user", "word 4"))


async def test_what_forks_share_is_found_once(history: AsyncHistoryManager) -> None:
    await forked(history)

    assert await found(history, "word") == [("fork", 3), ("chat", 3), ("chat", 2), ("chat", 1)]
    assert len(await found(history, "word", order="rank")) == 4


async def test_a_search_in_a_fork_finds_all_that_is_read_in_it(
    history: AsyncHistoryManager,
) -> None:
    await forked(history)

    assert await found(history, "word", session_id="fork") == [
        ("fork", 3), ("fork", 2), ("fork", 1),
    ]  # fmt: skip
    assert await found(history, "2", session_id="fork") == [("fork", 2)]
    assert await found(history, "3", session_id="fork") == []
    assert await found(history, "word", session_id="chat", limit=2) == [("chat", 3), ("chat", 2)]
    [hit] = await history.search("2", session_id="fork")
    assert hit.record == (await history.last("fork"))[1]


async def test_what_a_fork_rests_on_is_found_after_its_parent_is_gone(
    history: AsyncHistoryManager,
) -> None:
    await forked(history)
    await history.delete_session("chat")

    wanted = [("fork", 3), ("fork", 2), ("fork", 1)]
    assert await found(history, "word") == wanted
    assert await found(history, "word", session_id="fork") == wanted
    assert await found(history, "3") == []


async def test_what_was_taken_away_is_not_found(history: AsyncHistoryManager) -> None:
    await history.append("chat", *(Message.of("user", f"word {number}") for number in range(4)))
    await history.search("word")

    await history.truncate("chat", 2)
    assert await found(history, "word") == [("chat", 2), ("chat", 1)]
    await history.replace("chat", Message.of("user", "other word"))
    assert await found(history, "word") == [("chat", 1)]
    await history.delete_session("chat")
    assert await found(history, "word") == []


async def test_a_session_is_searched_for_its_own_user_only(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id="ann")
    await forked(history)

    assert len(await found(history, "word", session_id="fork", user_id="ann")) == 3
    assert await found(history, "word", session_id="fork", user_id="bob") == []
    assert len(await found(history, "word", user_id="ann")) == 4
    assert await found(history, "word", user_id="bob") == []
