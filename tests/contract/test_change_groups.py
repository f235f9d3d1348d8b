"""Changes that share a transaction end as if each had had its own, in the order of the calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from asynchistory import AnyRecord, AsyncHistoryError, AsyncHistoryManager
from tests.contract.chats import read_all, say, usage
from tests.contract.model import Epochs, Model, outcome
from tests.contract.sums import assert_all_statistics

pytestmark = pytest.mark.anyio

WritesHeld = Callable[[], AbstractContextManager[None]]

#: The name of a method, and its arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

NAMES = "abcd"
AT = datetime(2024, 2, 29, tzinfo=UTC)
NOTHING = {"user_id": None, "title": None, "metadata": None, "expires_at": None}


class Drawing:
    """Calls of all kinds."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.made = 0

    def record(self) -> AnyRecord:
        self.made += 1
        record = self.draw.choice([usage(f"r{self.made % 3}", self.made), say(str(self.made % 3))])
        return replace(record, record_id=f"{self.made:032x}", timestamp=AT)

    def call(self) -> Call:
        draw, name = self.draw, self.draw.choice(NAMES)
        records = [self.record() for _ in range(draw.randint(1, 3))]
        options = {
            "idempotency_key": draw.choice([None, None, "k", "l"]),
            "expected_seq": draw.choice([None, None, None, 2]),
        }
        fork = {**NOTHING, "at_seq": draw.choice([None, 1, 2]), "epoch": None}
        fresh = f"fork {self.made}"
        return draw.choice(
            [
                ("append", (name, *records), options),
                ("append", (name, *records), {}),
                ("append", (name, *records), {}),
                ("replace", (name, *records), options),
                ("truncate", (name, draw.randrange(5)), options),
                ("pop", (name, draw.randrange(3)), options),
                ("fork", (name, draw.choice(NAMES)), fork),
                ("fork", (name, fresh), {**fork, "user_id": "bob"}),
                ("create_session", (name,), {**NOTHING, "user_id": "ann", "exist_ok": True}),
                ("update_session", (name,), {**NOTHING, "user_id": draw.choice(["ann", "bob"])}),
                ("delete_session", (name,), {}),
            ]
        )


async def at_once(
    history: AsyncHistoryManager, calls: list[Call], held: AbstractContextManager[None]
) -> list[Any]:
    """What each call answered or raised; none of them is done before all have been made."""
    found: list[Any] = [None] * len(calls)

    async def make(number: int, method: str, args: Any, options: Any) -> None:
        try:
            found[number] = await getattr(history, method)(*args, **options)
        except AsyncHistoryError as error:
            found[number] = error

    async with anyio.create_task_group() as tasks:
        with held:
            for number, call in enumerate(calls):
                tasks.start_soon(make, number, *call)
                # What was started runs before the one that started it has run twice more.
                for _ in range(2):
                    await anyio.lowlevel.checkpoint()
    return found


async def assert_is_model(history: AsyncHistoryManager, model: Model) -> None:
    assert {session.id for session in await history.list_sessions()} == set(model.chats)
    for chat in model.chats.values():
        assert list(await read_all(history, chat.name)) == chat.records
    assert await history.count() == model.count()
    await assert_all_statistics(history, model.calls())


@pytest.mark.parametrize("size", [2, 5, 20])
@pytest.mark.parametrize("seed", range(6))
async def test_calls_of_one_transaction_end_as_they_would_one_by_one(
    history: AsyncHistoryManager, writes_held: WritesHeld, seed: int, size: int
) -> None:
    drawing, model, epochs = Drawing(seed), Model(), Epochs()
    for _ in range(60 // size):
        calls = [drawing.call() for _ in range(size)]
        found = await at_once(history, calls, writes_held())
        for (method, args, options), answer in zip(calls, found, strict=True):
            epochs.compare(outcome(partial(getattr(model, method), *args, **options)), answer)
        await assert_is_model(history, model)
