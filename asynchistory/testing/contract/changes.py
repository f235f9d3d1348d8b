"""The contract of changes: truncate, pop, replace, delete."""

from __future__ import annotations

import pytest

from asynchistory.errors import (
    EpochChangedError,
    IdempotencyMismatchError,
    SequenceConflictError,
    SessionNotFoundError,
)
from asynchistory.manager import AsyncHistoryManager
from asynchistory.testing.contract.base import Contract, call, numbered, say, text_of, texts


class Changes(Contract):
    """What changes of records promise."""

    async def test_truncate_keeps_the_first(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(5))
        before = await history.get_session("chat")

        done = await history.truncate("chat", 2)

        assert (done.seq, done.removed) == (2, 3)
        assert done.epoch > before.epoch
        assert await texts(history) == ["1", "2"]
        await history.append("chat", say("anew"))
        assert await texts(history) == ["1", "2", "anew"]

    async def test_truncate_of_nothing_changes_nothing(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(2))
        before = await history.get_session("chat")

        done = await history.truncate("chat", 9)

        assert (done.seq, done.removed, done.epoch) == (2, 0, before.epoch)

    async def test_pop_hands_out_what_it_takes(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(5))

        done = await history.pop("chat", 2, idempotency_key="k")
        again = await history.pop("chat", 2, idempotency_key="k")

        assert [(record.seq, text_of(record)) for record in done.records] == [(4, "4"), (5, "5")]
        assert again.replayed
        assert again.records == done.records
        assert await texts(history) == ["1", "2", "3"]

    async def test_replace_puts_others_in_their_place(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(5))
        before = await history.get_session("chat")

        done = await history.replace("chat", say("a"), say("b"), idempotency_key="k")

        assert (done.first_seq, done.last_seq) == (1, 2)
        assert done.epoch > before.epoch
        assert await texts(history) == ["a", "b"]
        assert (await history.replace("chat", say("a"), say("b"), idempotency_key="k")).replayed
        with pytest.raises(IdempotencyMismatchError):
            await history.replace("chat", say("c"), idempotency_key="k")

    async def test_replace_by_nothing(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(2))

        await history.replace("chat")

        assert await texts(history) == []

    async def test_replace_makes_a_session_that_is_missing(
        self, history: AsyncHistoryManager
    ) -> None:
        await history.replace("chat", say("one"))

        assert await texts(history) == ["one"]

    async def test_what_does_not_hold_is_refused(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *numbered(3))
        epoch = (await history.get_session("chat")).epoch

        with pytest.raises(SequenceConflictError):
            await history.truncate("chat", 1, expected_seq=2)
        with pytest.raises(SequenceConflictError):
            await history.replace("chat", say("x"), expected_seq=0)
        with pytest.raises(EpochChangedError):
            await history.truncate("chat", 1, epoch=epoch + 1)
        with pytest.raises(SessionNotFoundError):
            await history.truncate("other", 1)

        assert await texts(history) == ["1", "2", "3"]

    async def test_statistics_forget_what_is_cut_off(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *call("r1", tokens=5))
        await history.append("chat", *call("r2", tokens=7))

        await history.truncate("chat", 4)

        found = await history.get_token_statistics()
        assert (found.calls, found.input_tokens) == (1, 5)

    async def test_a_session_made_again_is_another(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("old"))
        before = await history.get_session("chat")

        assert await history.delete_session("chat")
        assert not await history.delete_session("chat")
        await history.append("chat", say("new"))

        after = await history.get_session("chat")
        assert after.epoch > before.epoch
        assert await texts(history) == ["new"]
