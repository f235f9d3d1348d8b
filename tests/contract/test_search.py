"""Search: each word as a case-folded substring, newest first."""

from __future__ import annotations

import pytest

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    Blob,
    Checkpoint,
    InvalidQueryError,
    LLMRequest,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)

pytestmark = pytest.mark.anyio


async def found(history: AsyncHistoryManager, text: str, **options: object) -> list[tuple]:
    hits = await history.search(text, **options)
    return [(hit.record.session_id, hit.record.seq) for hit in hits]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("I write C++ and C#", "C++"),
        ("I write C++ and C#", "c#"),
        ("a foo-bar, really", "foo-bar"),
        ("a foo-bar, really", "o-b"),
        ("今天天气很好", "天气"),
        ("今天天气很好", "很好"),
        ("die Straße ist lang", "STRASSE"),
        ("die STRASSE ist lang", "straße"),
        ("İstanbul and ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("100% of a_b", "100%"),
        ("100% of a_b", "a_b"),
        ('it\'s "quoted" \\ there', '"quoted"'),
        ('it\'s "quoted" \\ there', "it's"),
        ("NEAR AND OR NOT *", "and or not near *"),
        ("emoji 👩‍🚀 here", "👩‍🚀"),
        ("two  words", "words two"),
        ("two words", " \t two \n "),
        ("a NUL \0 in it", "\0"),
        ("one cafe\u0301 au lait", "CAFÉ"),
        ("one café au lait", "cafe\u0301"),
        ("한글 here", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
        ("ệ", "e\u0323\u0302"),
        ("กำลังกินข้าว", "กิน"),
        ("กำลังกินข้าว", "ก"),
        ("a ﬁne line", "FINE"),
    ],
)
async def test_a_word_is_found_as_it_is_written(
    history: AsyncHistoryManager, text: str, query: str
) -> None:
    await history.record_message("chat", "user", "something else: xyz")
    await history.record_message("chat", "user", text)

    assert await found(history, query) == [("chat", 2)]


@pytest.mark.parametrize(
    "query",
    ["C+++", "foo_bar", "天好", "%", "_", "*", "words absent", "cafe", "cafes", "\u0301", "하"],
)
async def test_what_is_not_there_is_not_found(history: AsyncHistoryManager, query: str) -> None:
    await history.record_message(
        "chat", "user", "C++ foo-bar 今天天气很好 two words cafe\u0301 한글"
    )

    assert await found(history, query) == []


async def test_words_may_be_in_different_parts(history: AsyncHistoryManager) -> None:
    await history.append(
        "chat",
        Message.of("assistant", [Text(text="alpha"), Reasoning(text="beta")]),
        Message.of("assistant", [Text(text="alpha"), Text(text="bet"), Text(text="a")]),
    )

    assert await found(history, "beta alpha") == [("chat", 1)]


@pytest.mark.parametrize(
    "record",
    [
        Message.of("user", "needle"),
        Message.of("assistant", [Reasoning(text="a needle")]),
        Message.of("assistant", [ToolCallPart(id="1", name="needle")]),
        Message.of("assistant", [ToolCallPart(id="1", name="t", arguments='{"q": "needle"}')]),
        Message.of("assistant", [ToolCallPart(id="1", name="t", arguments={"q": "needle"})]),
        Message.of("tool", [ToolResultPart(id="1", result="needle")]),
        Message.of("tool", [ToolResultPart(id="1", result={"deep": ["needle"]})]),
        ToolCall(name="needle"),
        ToolCall(name="t", input={"q": "needle"}),
        ToolCall(name="t", output=["needle"]),
        ToolCall(name="t", error="needle missing"),
    ],
    ids=lambda record: record.record_type,
)
async def test_words_are_looked_for_in_messages_and_tool_calls(
    history: AsyncHistoryManager, record: AnyRecord
) -> None:
    await history.append("chat", record)

    assert await found(history, "NEEDLE") == [("chat", 1)]


@pytest.mark.parametrize(
    "record",
    [
        Message.of("user", "x", metadata={"note": "needle"}),
        Message.of("user", [Blob(data=b"needle")]),
        Message.of("user", "x", name="needle"),
        LLMRequest(request_id="needle", provider="needle", model="needle"),
        Checkpoint(name="needle", state="needle"),
    ],
    ids=lambda record: record.record_type,
)
async def test_words_are_not_looked_for_elsewhere(
    history: AsyncHistoryManager, record: AnyRecord
) -> None:
    await history.append("chat", record)

    assert await found(history, "needle") == []


async def fill(history: AsyncHistoryManager) -> None:
    await history.create_session("a", user_id="ann")
    await history.create_session("b", user_id="bob")
    await history.create_session("c", user_id="ann")
    for number in range(9):
        await history.record_message("abc"[number % 3], "user", f"word {number}")


async def test_the_newest_is_first_over_all_sessions(history: AsyncHistoryManager) -> None:
    await fill(history)

    wanted = [(session, seq) for seq in (3, 2, 1) for session in "cba"]
    assert await found(history, "word") == wanted


async def test_session_user_and_limit_narrow_a_search(history: AsyncHistoryManager) -> None:
    await fill(history)

    assert await found(history, "word", session_id="b") == [("b", 3), ("b", 2), ("b", 1)]
    assert await found(history, "word", user_id="ann", limit=3) == [("c", 3), ("a", 3), ("c", 2)]
    assert await found(history, "word", session_id="b", user_id="ann") == []
    assert await found(history, "word", session_id="none") == []
    assert await found(history, "word", limit=0) == []
    assert await found(history, "word", limit=1) == [("c", 3)]


async def test_the_limit_counts_matches_and_not_what_was_looked_at(
    history: AsyncHistoryManager,
) -> None:
    await history.record_message("chat", "user", "needle")
    for number in range(30):
        await history.record_message("chat", "user", f"hay {number}")

    assert await found(history, "needle", limit=1) == [("chat", 1)]


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
async def test_a_search_without_a_word_is_refused(history: AsyncHistoryManager, text: str) -> None:
    with pytest.raises(InvalidQueryError, match="at least one word"):
        await history.search(text)


async def test_what_was_just_written_is_found(history: AsyncHistoryManager) -> None:
    for number in range(5):
        await history.record_message("chat", "user", f"word {number}")
        assert len(await found(history, f"word {number}")) == 1
