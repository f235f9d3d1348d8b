"""What the databases of the read benchmark hold: every contender's the same messages.

Of ``messages`` messages, 500 each belong to one session, a question and an answer
in turn, ~500 bytes. They stand in the order in which they arrived: message n of
every session, the sessions in an order of chance, before message n + 1 of any.
So the messages of one conversation are spread over the whole file, as they are
where many people talk at once.

Ours holds a second half beside them, in sessions of their own: as many records
again that describe calls to models, four a call (request, response, token usage,
cost), spread over 90 days, 8 models and 3 providers. So statistics have a million
records to cover while the last messages of a session are the same for everyone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from asynchistory import AnyRecord, Cost, LLMRequest, LLMResponse, Message, TokenUsage, Usage, money
from benchmarks._contender import TEXT

MESSAGES = 500
RECORDS_A_CALL = 4
DAYS = 90
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai", "o3"), ("openai", "gpt-5"),
    ("anthropic", "claude-sonnet-4-5"), ("anthropic", "claude-haiku-4-5"),
    ("mistral", "mistral-large"), ("mistral", "mistral-small"),
)  # fmt: skip
_START = datetime(2026, 1, 1, tzinfo=UTC)


class Said(NamedTuple):
    """One message."""

    session: int
    number: int  # 0, 1, 2 ... in its session

    @property
    def role(self) -> str:
        return "assistant" if self.number % 2 else "user"

    @property
    def text(self) -> str:
        return f"{self.session}/{self.number} {TEXT}"

    @property
    def json(self) -> str:
        return json.dumps({"role": self.role, "content": self.text})

    @property
    def record(self) -> Message:
        return Message.of(self.role, self.text)


def rounds(sessions: int, length: int) -> Iterator[list[Said]]:
    """One message of every session at a time, in the order of their arrival.

    Half of the sessions always come before the other half, so that no two
    messages of one session arrive close together.
    """
    chance = random.Random(7)
    order = chance.sample(range(sessions), sessions)
    early, late = order[: sessions // 2], order[sessions // 2 :]
    for number in range(length):
        chance.shuffle(early)
        chance.shuffle(late)
        yield [Said(session, number) for session in early + late]


def call(session: int, number: int, length: int) -> tuple[AnyRecord, ...]:
    """The four records of a session's call, ``number`` of ``length``."""
    chance = random.Random(session << 20 | number)
    provider, model = MODELS[chance.randrange(len(MODELS))]
    asked = _START + timedelta(days=DAYS * number / length, seconds=chance.randrange(3600))
    request = f"req-{session}-{number}"
    given, made = chance.randrange(200, 8000), chance.randrange(20, 900)
    usage: dict[str, Any] = {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
    }
    shared: dict[str, Any] = {"request_id": request, "provider": provider, "model": model}
    answered = shared | {"timestamp": asked + timedelta(seconds=chance.random() * 9)}
    return (
        LLMRequest(**shared, timestamp=asked, parameters={"temperature": 0.2}),
        LLMResponse(
            **answered, content=TEXT[:300], finish_reason="stop", usage=Usage(**usage),
            response_time=round(chance.random() * 9, 3),
        ),
        TokenUsage(**answered, **usage, cached_tokens=given // 2, source="provider"),
        Cost(**answered, total_cost=money(given * 2.5e-6 + made * 1e-5)),
    )  # fmt: skip
