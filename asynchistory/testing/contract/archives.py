"""The contract of archives: whole sessions out and in, and a check of everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asynchistory.errors import SessionDiffersError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.records import Checkpoint
from asynchistory.storage.memory import MemoryStorage
from asynchistory.testing.contract.base import Contract, call, numbered, say, texts


class Archiving(Contract):
    """What exports, imports and verify promise."""

    async def test_a_round_trip_loses_nothing(
        self, history: AsyncHistoryManager, tmp_path: Path
    ) -> None:
        await _live(history)
        wanted = await _lines(history)

        async with AsyncHistoryManager(MemoryStorage()) as between:
            await between.import_(wanted)
            lines = await _lines(between)
        async with AsyncHistoryManager(self.make_storage(tmp_path / "other")) as other:
            imported = await other.import_(lines)
            again = await other.import_(lines)
            found = await _lines(other)
            assert (await other.verify()).ok

        assert (imported.sessions, again.sessions, again.skipped) == (len(wanted), 0, len(wanted))
        assert list(map(_told, found)) == list(map(_told, wanted))

    async def test_another_session_of_the_same_name_is_not_touched(
        self, history: AsyncHistoryManager
    ) -> None:
        await history.append("chat", say("here"))
        async with AsyncHistoryManager(MemoryStorage()) as other:
            await other.append("chat", say("there"))
            lines = await _lines(other)

        with pytest.raises(SessionDiffersError):
            await history.import_(lines)

        assert await texts(history) == ["here"]

    async def test_all_is_well(self, history: AsyncHistoryManager) -> None:
        await _live(history)

        found = await history.verify()

        assert found.ok
        assert found.sessions == 5


async def _live(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id="ann", title="Ü\0", metadata={"a": [None, 1.5]})
    await history.append("chat", *numbered(4), *call("r1"), idempotency_key="k")
    await history.append("chat", Checkpoint(name="here", state={"n": 1}, at_seq=3))
    await history.fork("chat", "fork", at_seq=2)
    await history.append("fork", *call("r2"))
    await history.fork("chat", "bob's", user_id="bob")
    await history.append("cut", *numbered(4), idempotency_key="made")
    await history.pop("cut", 2, idempotency_key="popped")
    await history.replace("anew", say("x"), idempotency_key="anew")


async def _lines(history: AsyncHistoryManager) -> list[bytes]:
    async with history.export() as lines:
        return [line async for line in lines]


def _told(line: bytes) -> Any:
    """What a line says, each epoch as its rank: a store draws its own."""
    value = json.loads(line)
    named = [value["session"], *value.get("keys", ())]
    ranks = sorted({item["epoch"] for item in named})
    for item in named:
        item["epoch"] = ranks.index(item["epoch"])
    return value
