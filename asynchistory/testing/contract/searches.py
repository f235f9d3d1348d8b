"""The contract of searches: substrings, case-folded, in every script."""

from __future__ import annotations

import pytest

from asynchistory.manager import AsyncHistoryManager
from asynchistory.records import ToolCall
from asynchistory.testing.contract.base import Contract, say, text_of


class Searches(Contract):
    """What a search promises."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("We use C++ here", "c++"),
            ("a foo-bar b", "FOO-BAR"),
            ("今天天气很好", "天气"),
            ("STRASSE", "straße"),
            ("die Straße", "STRASSE"),
            ("Kelvin K", "k"),
            ("cafe\u0301", "café"),
            ("one two three", "three one"),
            ("50% of _all_", "50% _all_"),
            ("back\\slash", "k\\s"),
            ("inside", "nsid"),
        ],
    )
    async def test_what_is_found(self, history: AsyncHistoryManager, text: str, words: str) -> None:
        await history.append("chat", say("before"), say(text), say("behind"))

        hits = await history.search(words)

        assert [text_of(hit.record) for hit in hits if hit.record.seq == 2] == [text]

    @pytest.mark.parametrize(
        ("text", "words"),
        [("one two", "one three"), ("café", "cafe"), ("a_b", "a%b"), ("ab", "abc")],
    )
    async def test_what_is_not_found(
        self, history: AsyncHistoryManager, text: str, words: str
    ) -> None:
        await history.append("chat", say(text))

        assert not await history.search(words)

    async def test_the_newest_come_first(self, history: AsyncHistoryManager) -> None:
        for number in range(300):
            await history.append(f"chat-{number % 3}", say(f"needle {number}"), say("hay"))

        hits = await history.search("needle", limit=5)

        assert [text_of(hit.record) for hit in hits] == [f"needle {n}" for n in range(299, 294, -1)]

    async def test_whose(self, history: AsyncHistoryManager) -> None:
        await history.create_session("a", user_id="ann")
        await history.create_session("b", user_id="bob")
        for name in ("a", "b"):
            await history.append(name, say("needle"), ToolCall(name="f", input={"x": "needle"}))

        async def found(**options: object) -> list[tuple[str, int]]:
            hits = await history.search("needle", **options)  # type: ignore[arg-type]
            return [(hit.record.session_id, hit.record.seq) for hit in hits]

        assert await found(user_id="ann") == [("a", 2), ("a", 1)]
        assert await found(session_id="b") == [("b", 2), ("b", 1)]
        assert await found(session_id="b", user_id="ann") == []
        assert await found(record_types=("tool_call",)) == [("b", 2), ("a", 2)]
        assert await found(session_id="nothing") == []

    async def test_what_is_gone_is_not_found(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("needle"), say("hay"))
        assert await history.search("needle")

        await history.truncate("chat", 0)

        assert not await history.search("needle")
