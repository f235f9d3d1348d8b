"""The contract of appends: gapless seqs, whole batches, idempotency keys, expected seqs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchistory.errors import (
    IdempotencyMismatchError,
    InvalidRecordError,
    NotOpenError,
    SequenceConflictError,
)
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import Appended, Version
from asynchistory.storage.port import Storage
from asynchistory.testing.contract.base import Contract, numbered, say, texts, texts_or_none


class Appends(Contract):
    """What an append promises."""

    async def test_the_first_append_makes_the_session(self, history: AsyncHistoryManager) -> None:
        appended = await history.append("chat", say("one"), say("two"))

        assert (appended.session_id, appended.first_seq, appended.last_seq) == ("chat", 1, 2)
        assert not appended.replayed
        assert await texts(history) == ["one", "two"]

    async def test_what_is_appended_is_read_in_its_order(
        self, history: AsyncHistoryManager
    ) -> None:
        for number in range(1, 41):
            await history.append("chat", say(str(number)))

        assert await texts(history) == [str(number) for number in range(1, 41)]

    async def test_of_many_records_none_is_lost(self, history: AsyncHistoryManager) -> None:
        for start in range(1, 4_000, 200):
            await history.append("chat", *numbered(start + 199, start))

        assert await texts(history) == [str(number) for number in range(1, 4_001)]

    async def test_of_many_appends_at_once_none_is_lost(self, history: AsyncHistoryManager) -> None:
        answers: dict[str, Appended] = {}

        async def write(task: int) -> None:
            for turn in range(20):
                name = f"{task}.{turn}"
                answers[name] = await history.append("chat", say(name))

        async with anyio.create_task_group() as tasks:
            for task in range(50):
                tasks.start_soon(write, task)

        found = await texts(history)
        assert len(found) == 1_000
        assert {name: answer.first_seq for name, answer in answers.items()} == {
            text: seq for seq, text in enumerate(found, 1)
        }
        for task in range(50):
            mine = [text for text in found if text.startswith(f"{task}.")]
            assert mine == [f"{task}.{turn}" for turn in range(20)]

    async def test_batches_at_once_stay_whole(self, history: AsyncHistoryManager) -> None:
        answers: dict[int, Appended] = {}

        async def write(number: int) -> None:
            batch = [say(f"{number}.{index}") for index in range(number % 7 + 1)]
            answers[number] = await history.append(f"chat-{number % 3}", *batch)

        async with anyio.create_task_group() as tasks:
            for number in range(90):
                tasks.start_soon(write, number)

        for number, answer in answers.items():
            found = await texts(history, f"chat-{number % 3}")
            batch = [f"{number}.{index}" for index in range(number % 7 + 1)]
            assert found[answer.first_seq - 1 : answer.last_seq] == batch

    async def test_sessions_do_not_mix(self, history: AsyncHistoryManager) -> None:
        async def write(number: int) -> None:
            await history.append(f"chat-{number}", say(str(number)))

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(write, number)

        for number in range(60):
            assert await texts(history, f"chat-{number}") == [str(number)]

    async def test_a_refused_batch_stores_nothing(self, history: AsyncHistoryManager) -> None:
        bad = say("bad", metadata={"value": float("nan")})

        with pytest.raises(InvalidRecordError):
            await history.append("chat", say("one"), bad)

        assert await texts_or_none(history) is None

    async def test_records_come_back_as_they_went(self, history: AsyncHistoryManager) -> None:
        odd = "Ünï\u2028c\0de 🚀 \\ \" ' {} %s \x7f"
        record = say(odd, metadata={odd: [None, True, 1.5, {"a": [odd]}], "big": 2**53})

        await history.append("chat", record)

        found: Any = (await history.last("chat", 1))[0]
        assert found.text == odd
        assert found.metadata == record.metadata
        assert found.timestamp is not None
        assert len(found.record_id) == 32

    async def test_a_large_record_comes_back(self, history: AsyncHistoryManager) -> None:
        large = "x" * 2_000_000

        await history.append("chat", say(large))

        assert await texts(history) == [large]

    # -- expected_seq

    async def test_an_expected_seq_that_holds(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"), expected_seq=0)

        appended = await history.append("chat", say("two"), expected_seq=1)

        assert appended.last_seq == 2

    async def test_an_expected_seq_that_does_not_hold(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"))

        with pytest.raises(SequenceConflictError) as caught:
            await history.append("chat", say("two"), expected_seq=0)

        assert (caught.value.expected, caught.value.actual) == (0, 1)
        assert await texts(history) == ["one"]

    async def test_a_conflict_makes_no_session(self, history: AsyncHistoryManager) -> None:
        with pytest.raises(SequenceConflictError):
            await history.append("chat", say("one"), expected_seq=3)

        assert await texts_or_none(history) is None

    async def test_of_many_who_expect_the_same_seq_one_wins(
        self, history: AsyncHistoryManager
    ) -> None:
        won: list[int] = []

        async def write(number: int) -> None:
            try:
                await history.append("chat", say(str(number)), expected_seq=0)
            except SequenceConflictError:
                return
            won.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(write, number)

        assert await texts(history) == [str(number) for number in won]
        assert len(won) == 1

    # -- idempotency keys

    async def test_a_key_stores_once(self, history: AsyncHistoryManager) -> None:
        first = await history.append("chat", say("one"), idempotency_key="k")
        await history.append("chat", say("two"))

        again = await history.append("chat", say("one"), idempotency_key="k")

        assert again.replayed
        assert (again.epoch, again.first_seq) == (first.epoch, first.first_seq)
        assert await texts(history) == ["one", "two"]

    async def test_a_key_at_once_stores_once(self, history: AsyncHistoryManager) -> None:
        answers: list[Appended] = []

        async def write() -> None:
            answers.append(await history.append("chat", say("one"), idempotency_key="k"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(write)

        assert [answer.replayed for answer in answers].count(False) == 1
        assert await texts(history) == ["one"]

    async def test_a_key_with_other_content_is_refused(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"), idempotency_key="k")

        with pytest.raises(IdempotencyMismatchError):
            await history.append("chat", say("two"), idempotency_key="k")

        assert await texts(history) == ["one"]

    async def test_a_key_comes_before_an_expected_seq(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"), idempotency_key="k", expected_seq=0)

        again = await history.append("chat", say("one"), idempotency_key="k", expected_seq=0)

        assert again.replayed

    async def test_a_key_belongs_to_its_session(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"), idempotency_key="k")

        other = await history.append("other", say("two"), idempotency_key="k")

        assert not other.replayed

    async def test_a_key_lives_as_long_as_its_session(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", say("one"), say("two"), idempotency_key="k")
        await history.truncate("chat", 0)
        assert (await history.append("chat", say("one"), say("two"), idempotency_key="k")).replayed
        await history.delete_session("chat")

        anew = await history.append("chat", say("other"), idempotency_key="k")

        assert not anew.replayed

    # -- what lasts

    async def test_all_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        if not self.durable:
            pytest.skip("this store keeps nothing")
        async with AsyncHistoryManager(self.make_storage(tmp_path)) as history:
            await history.append("chat", say("one"), idempotency_key="k")

        async with AsyncHistoryManager(self.make_storage(tmp_path), level="fresh") as history:
            assert await texts(history) == ["one"]
            assert (await history.append("chat", say("one"), idempotency_key="k")).replayed

    async def test_a_store_is_used_inside_its_lifetime(self, tmp_path: Path) -> None:
        storage = self.make_storage(tmp_path)
        with pytest.raises(NotOpenError):
            await storage.version("chat")
        async with storage:
            assert await storage.version("chat") is None
        with pytest.raises(NotOpenError):
            await storage.version("chat")

    async def test_the_version_moves_with_every_append(self, storage: Storage) -> None:
        history = AsyncHistoryManager(storage)

        appended = await history.append("chat", say("one"))
        assert await storage.version("chat") == Version(appended.epoch, 1)
        await history.append("chat", say("two"), say("three"))

        assert await storage.version("chat") == Version(appended.epoch, 3)
