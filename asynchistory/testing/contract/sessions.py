"""The contract of sessions: what they carry, lists, retention, erasing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from asynchistory.errors import SessionExistsError, SessionNotFoundError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.testing.contract.base import Contract, call, numbered, say

_PAST, _FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)


class Sessions(Contract):
    """What sessions promise."""

    async def test_a_session_has_what_it_was_given(self, history: AsyncHistoryManager) -> None:
        odd = "Ünï 🚀 \\ \" ' \0"
        metadata = {"a": [1, None, {"b": 1.5}], odd: odd}

        made = await history.create_session(
            "chat", user_id="ann", title=odd, metadata=metadata, expires_at=_FUTURE
        )

        assert made == await history.get_session("chat")
        assert (made.user_id, made.title, made.metadata) == ("ann", odd, metadata)
        assert made.expires_at == _FUTURE
        assert (made.seq, made.forked_from) == (0, None)

    async def test_a_session_is_made_once(self, history: AsyncHistoryManager) -> None:
        first = await history.create_session("chat", title="first")

        with pytest.raises(SessionExistsError):
            await history.create_session("chat", title="second")

        assert await history.create_session("chat", title="second", exist_ok=True) == first

    async def test_a_session_can_be_changed(self, history: AsyncHistoryManager) -> None:
        await history.create_session("chat", title="old", metadata={"a": 1}, expires_at=_FUTURE)

        changed = await history.update_session(
            "chat", title="new", metadata={"b": 2}, user_id="ann", expires_at="never"
        )

        assert changed == await history.get_session("chat")
        assert (changed.title, changed.metadata, changed.user_id) == ("new", {"b": 2}, "ann")
        assert changed.expires_at is None
        with pytest.raises(SessionNotFoundError):
            await history.update_session("other", title="x")

    async def test_lists(self, history: AsyncHistoryManager) -> None:
        for number in range(7):
            await history.create_session(
                f"chat-{number}",
                user_id="ann" if number % 2 else "bob",
                metadata={"kind": "even" if number % 2 == 0 else "odd", "n": number, "t": True},
            )
        await history.append("chat-2", say("newest"))

        async def names(**options: object) -> list[str]:
            found: list[str] = []
            after: str | None = None
            while True:
                page = await history.list_sessions(limit=2, after=after, **options)  # type: ignore[arg-type]
                found += [session.id for session in page]
                if (after := page.next) is None:
                    return found

        assert await names(order="created") == [f"chat-{number}" for number in range(7)]
        assert (await names())[0] == "chat-2"
        assert sorted(await names()) == [f"chat-{number}" for number in range(7)]
        assert await names(order="created", user_id="ann") == ["chat-1", "chat-3", "chat-5"]
        assert await names(order="created", metadata={"kind": "odd"}) == [
            "chat-1",
            "chat-3",
            "chat-5",
        ]
        assert await names(metadata={"n": True}) == []
        assert await names(metadata={"n": 3, "t": True}) == ["chat-3"]

    async def test_prune_takes_what_is_due(self, history: AsyncHistoryManager) -> None:
        for name, expires in (("past", _PAST), ("future", _FUTURE), ("never", None)):
            await history.create_session(name, expires_at=expires)
            await history.append(name, *numbered(2))

        removed = await history.prune()

        assert (removed.sessions, removed.records) == (1, 2)
        found = await history.list_sessions(order="created")
        assert [session.id for session in found] == ["future", "never"]
        everything = await history.prune(older_than=datetime.now(UTC) + timedelta(hours=1))
        assert everything.sessions == 2

    async def test_a_user_can_be_erased(self, history: AsyncHistoryManager) -> None:
        for name, user in (("one", "ann"), ("two", "ann"), ("three", "bob")):
            await history.create_session(name, user_id=user)
            await history.append(name, say(f"of {user}"), *call(f"r-{name}"))

        removed = await history.erase_user("ann")

        assert (removed.sessions, removed.records) == (2, 10)
        assert [session.id for session in await history.list_sessions()] == ["three"]
        assert not await history.search("of ann")
        assert (await history.get_token_statistics(group_by="user")).groups.keys() == {"bob"}

    async def test_health(self, history: AsyncHistoryManager) -> None:
        health = await history.health()

        assert health.ok
        assert health.write_time is not None
        assert health.read_time is not None
