"""Sessions with calls to models, changed at random, and books of what is in each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from asynchistory import (
    AnyRecord,
    AsyncHistoryManager,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    Usage,
)
from tests.contract.sums import Call, calls_of

OWNERS = (None, "ann", "bob")


def a_record(draw: random.Random) -> AnyRecord:
    """A record of one of few calls, so that calls are made of many."""
    at = datetime(2024, 2, 29, draw.randrange(24), tzinfo=UTC) + timedelta(days=draw.randrange(3))
    base: dict[str, Any] = {
        "request_id": f"r{draw.randrange(4)}",
        "provider": draw.choice("pq"),
        "model": draw.choice("mno"),
        "timestamp": at,
    }
    first, second = draw.choice([None, draw.randrange(100)]), draw.randrange(100)
    match draw.randrange(5):
        case 0:
            return LLMRequest(**base)
        case 1:
            return LLMResponse(
                **base,
                finish_reason=draw.choice([None, "stop", "error"]),
                response_time=draw.choice([None, second / 8]),
                time_to_first_token=draw.choice([None, second / 16]),
                usage=draw.choice([None, Usage(input_tokens=first, output_tokens=second)]),
            )
        case 2:
            return TokenUsage(**base, input_tokens=first, output_tokens=second, cached_tokens=first)
        case 3:
            amount = None if first is None else Decimal(first).scaleb(-12)
            currency = draw.choice(["USD", "EUR"])
            total = Decimal(second)
            return Cost(**base, input_cost=amount, total_cost=total, currency=currency)
        case _:
            return Message.of("user", "between")


class Books:
    """What is in each session, and how much of it is its own."""

    def __init__(self, history: AsyncHistoryManager, draw: random.Random) -> None:
        self.history = history
        self.draw = draw
        self.records: dict[str, list[AnyRecord]] = {}
        self.shared: dict[str, int] = {}
        self.owner: dict[str, str | None] = {}
        self.names: Iterator[str] = (f"chat {number}" for number in count())

    def calls(self) -> list[Call]:
        return [
            call
            for name, records in self.records.items()
            for call in calls_of(name, self.owner[name], records[self.shared[name] :])
        ]

    async def create(self) -> None:
        name, owner = next(self.names), self.draw.choice(OWNERS)
        await self.history.create_session(name, user_id=owner)
        self.records[name], self.shared[name], self.owner[name] = [], 0, owner

    async def step(self) -> None:
        name = self.draw.choice(sorted(self.records))
        action = self.draw.choice([self.append] * 4 + [self.cut, self.fork, self.rewrite, self.own])
        if self.draw.random() < 0.05 and len(self.records) > 2:
            action = self.delete
        await action(name)

    async def append(self, name: str) -> None:
        new = [a_record(self.draw) for _ in range(self.draw.randint(1, 6))]
        await self.history.append(name, *new)
        self.records[name] = [*self.records[name], *new]

    async def cut(self, name: str) -> None:
        left = self.draw.randint(0, len(self.records[name]))
        await self.history.truncate(name, left)
        self.records[name] = self.records[name][:left]
        self.shared[name] = min(self.shared[name], left)

    async def rewrite(self, name: str) -> None:
        new = [a_record(self.draw) for _ in range(self.draw.randint(0, 3))]
        await self.history.replace(name, *new)
        self.records[name], self.shared[name] = new, 0

    async def fork(self, name: str) -> None:
        fork, at_seq = next(self.names), self.draw.randint(0, len(self.records[name]))
        owner = self.draw.choice([None, "ann"])
        await self.history.fork(name, fork, at_seq=at_seq, user_id=owner)
        self.records[fork], self.shared[fork] = self.records[name][:at_seq], at_seq
        self.owner[fork] = owner or self.owner[name]

    async def own(self, name: str) -> None:
        self.owner[name] = self.draw.choice(["ann", "bob"])
        await self.history.update_session(name, user_id=self.owner[name])

    async def delete(self, name: str) -> None:
        await self.history.delete_session(name)
        for book in (self.records, self.shared, self.owner):
            del book[name]
