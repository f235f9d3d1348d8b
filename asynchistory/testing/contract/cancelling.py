"""The contract of cancellation: a write completes or is cancelled, never both."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel

from asynchistory.manager import AsyncHistoryManager
from asynchistory.testing.contract.base import Contract, numbered, say, texts, texts_or_none

_ROUNDS = 120


class Cancelling(Contract):
    """What a cancellation leaves."""

    async def test_an_append_completes_or_is_cancelled(self, history: AsyncHistoryManager) -> None:
        draw = random.Random(1)
        returned: list[str] = []

        async def write(name: str) -> None:
            await history.append("chat", say(name), say(name))
            returned.append(name)

        for number in range(_ROUNDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, f"{number}")
                await _turns(draw)
                tasks.cancel_scope.cancel()

        found = await texts_or_none(history) or []
        assert found == [name for name in returned for _ in range(2)]

    async def test_a_cancelled_append_leaves_the_others_alone(
        self, history: AsyncHistoryManager
    ) -> None:
        draw = random.Random(2)
        returned: set[str] = set()

        async def write(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                await history.append("chat", say(name))
                returned.add(name)

        for turn in range(_ROUNDS // 4):
            scopes = [anyio.CancelScope() for _ in range(12)]
            async with anyio.create_task_group() as tasks:
                for number, scope in enumerate(scopes):
                    tasks.start_soon(write, f"{turn}.{number}", scope)
                await _turns(draw)
                for scope in scopes[::2]:
                    scope.cancel()

        found = await texts(history)
        assert len(found) == len(set(found))
        assert set(found) == returned

    async def test_a_cancelled_read_does_not_mix_answers(
        self, history: AsyncHistoryManager
    ) -> None:
        draw = random.Random(3)
        for name in ("one", "two"):
            await history.append(name, *[say(name) for _ in range(30)])
        wrong: list[str] = []

        async def read(name: str) -> None:
            wrong.extend(text for text in await texts(history, name) if text != name)

        for number in range(_ROUNDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, ("one", "two")[number % 2])
                tasks.start_soon(read, ("two", "one")[number % 2])
                await _turns(draw)
                if draw.random() < 0.7:
                    tasks.cancel_scope.cancel()

        assert not wrong

    async def test_a_cancelled_change_is_whole_or_not_at_all(
        self, history: AsyncHistoryManager
    ) -> None:
        draw = random.Random(4)
        await history.append("chat", *numbered(4))
        for _ in range(_ROUNDS // 2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(history.replace, "chat", *numbered(4))
                await _turns(draw)
                tasks.cancel_scope.cancel()
            assert await texts(history) == ["1", "2", "3", "4"]


async def _turns(draw: random.Random) -> None:
    for _ in range(draw.choice([0, 1, 2, draw.randrange(20), draw.randrange(300)])):
        await anyio.lowlevel.checkpoint()
