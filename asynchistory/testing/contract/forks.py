"""The contract of forks: they share, and nobody notices what the others do."""

from __future__ import annotations

import pytest

from asynchistory.errors import (
    EpochChangedError,
    InvalidQueryError,
    SessionExistsError,
    SessionNotFoundError,
)
from asynchistory.manager import AsyncHistoryManager
from asynchistory.testing.contract.base import Contract, call, numbered, say, texts


class Forks(Contract):
    """What forks promise."""

    async def test_a_fork_begins_with_the_first_records(self, history: AsyncHistoryManager) -> None:
        await history.create_session("chat", user_id="ann", title="T", metadata={"a": 1})
        await history.append("chat", *numbered(5))

        fork = await history.fork("chat", "fork", at_seq=3)

        assert (fork.forked_from, fork.fork_seq, fork.seq) == ("chat", 3, 3)
        assert (fork.user_id, fork.title, fork.metadata) == ("ann", "T", {"a": 1})
        assert await texts(history, "fork") == ["1", "2", "3"]

    async def test_each_goes_its_own_way(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(3))
        await history.fork("chat", "fork")

        await history.append("chat", say("mine"))
        await history.append("fork", say("yours"))

        assert await texts(history, "chat") == ["1", "2", "3", "mine"]
        assert await texts(history, "fork") == ["1", "2", "3", "yours"]

    @pytest.mark.parametrize("change", ["truncate", "replace", "pop", "delete", "erase"])
    async def test_a_change_of_the_parent_does_not_change_a_fork(
        self, history: AsyncHistoryManager, change: str
    ) -> None:
        await history.create_session("chat", user_id="ann")
        await history.append("chat", *numbered(5))
        await history.fork("chat", "fork", at_seq=4)
        await history.fork("chat", "other", at_seq=2)
        await history.fork("fork", "grandchild", at_seq=3)
        await history.fork("chat", "bob's", user_id="bob")

        await _change(history, "chat", change)
        await history.append("chat", say("after"))

        if change != "erase":
            assert await texts(history, "fork") == ["1", "2", "3", "4"]
            assert await texts(history, "other") == ["1", "2"]
            assert await texts(history, "grandchild") == ["1", "2", "3"]
        assert await texts(history, "bob's") == ["1", "2", "3", "4", "5"]

    @pytest.mark.parametrize("change", ["truncate", "replace", "pop", "delete"])
    async def test_a_change_of_a_fork_does_not_change_the_parent(
        self, history: AsyncHistoryManager, change: str
    ) -> None:
        await history.append("chat", *numbered(5))
        await history.fork("chat", "fork", at_seq=4)
        await history.fork("fork", "grandchild")

        await _change(history, "fork", change)
        await history.append("fork", say("after"))

        assert await texts(history, "chat") == ["1", "2", "3", "4", "5"]
        assert await texts(history, "grandchild") == ["1", "2", "3", "4"]

    async def test_a_call_counts_where_it_was_made(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *call("r1", tokens=5))
        await history.fork("chat", "fork")
        await history.append("fork", *call("r2", tokens=7))

        everything = await history.get_token_statistics(group_by="session")

        assert (everything.calls, everything.input_tokens) == (2, 12)
        assert everything.groups["chat"].input_tokens == 5
        assert everything.groups["fork"].input_tokens == 7

    async def test_what_cannot_be_forked(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(2))
        epoch = (await history.get_session("chat")).epoch

        with pytest.raises(SessionNotFoundError):
            await history.fork("nothing", "fork")
        with pytest.raises(SessionExistsError):
            await history.fork("chat", "chat")
        with pytest.raises(InvalidQueryError):
            await history.fork("chat", "fork", at_seq=3)
        with pytest.raises(EpochChangedError):
            await history.fork("chat", "fork", epoch=epoch + 1)

        assert not [session for session in await history.list_sessions() if session.id == "fork"]

    async def test_a_long_chain_of_forks(self, history: AsyncHistoryManager) -> None:
        await history.append("0", say("0"))
        for number in range(1, 12):
            await history.fork(str(number - 1), str(number))
            await history.append(str(number), say(str(number)))
        for number in range(0, 11, 2):
            await history.delete_session(str(number))

        assert await texts(history, "11") == [str(number) for number in range(12)]
        assert (await history.verify()).ok


async def _change(history: AsyncHistoryManager, name: str, change: str) -> None:
    if change == "truncate":
        await history.truncate(name, 1)
    elif change == "replace":
        await history.replace(name, say("other"))
    elif change == "pop":
        await history.pop(name, 3)
    elif change == "delete":
        await history.delete_session(name)
    else:
        await history.erase_user("ann")
