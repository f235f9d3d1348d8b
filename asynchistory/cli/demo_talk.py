"""The conversations of the demo: a customer, an assistant, a few tools."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from asynchistory.records import (
    AnyRecord,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)

#: Models of the demo, with dollars for a million tokens in and out (made up).
_MODELS = (
    ("openai", "gpt-4o", Decimal("2.50"), Decimal("10")),
    ("openai", "gpt-4o-mini", Decimal("0.15"), Decimal("0.60")),
    ("anthropic", "claude-sonnet-4-5", Decimal("3"), Decimal("15")),
)
_MILLION = Decimal(1_000_000)
USERS = ("mia", "ravi", "chen", "olga", "tariq")


class Turn(NamedTuple):
    """What is asked, the tool that finds out, and what is answered."""

    asked: str
    tool: str
    arguments: str
    result: str
    answer: str


_TURNS = (
    Turn(
        "Hi! My flight to Lisbon was cancelled. What are my options?",
        "find_flights",
        '{"to":"LIS","date":"2026-03-14"}',
        '{"flights":[{"number":"TP1351","departs":"11:05","seats":7},'
        '{"number":"TP1363","departs":"18:40","seats":2}]}',
        "I'm sorry about that. There are two flights today with seats left: TP1351 at 11:05 and "
        "TP1363 at 18:40. Shall I move you to one of them?",
    ),
    Turn(
        "The early one, please. Can I keep my window seat?",
        "rebook",
        '{"booking":"K3XQ9P","flight":"TP1351","seat":"window"}',
        '{"booking":"K3XQ9P","flight":"TP1351","seat":"12A","price_difference":0}',
        "Done: you are on TP1351 at 11:05, seat 12A, a window, at no extra cost.",
    ),
    Turn(
        "And what about my suitcase?",
        "track_baggage",
        '{"booking":"K3XQ9P"}',
        '{"bags":[{"tag":"0047 TP 552911","status":"checked through to LIS"}]}',
        "Your suitcase (tag 0047 TP 552911) is checked through to Lisbon; nothing to do for you.",
    ),
    Turn(
        "Our build fails with `undefined reference to pthread_create`. C++20, CMake.",
        "search_docs",
        '{"query":"CMake Threads::Threads link"}',
        '{"hits":["find_package(Threads REQUIRED)",'
        '"target_link_libraries(app PRIVATE Threads::Threads)"]}',
        "The linker is missing the thread library. Add `find_package(Threads REQUIRED)` and link "
        "`Threads::Threads` to your target.",
    ),
    Turn(
        "东京明天天气怎么样?",
        "get_weather",
        '{"city":"Tokyo","day":"tomorrow"}',
        '{"high":17,"low":9,"sky":"cloudy"}',
        "东京明天多云，最高气温17度，最低9度。",
    ),
    Turn(
        "Which of our customers wrote about late deliveries this week?",
        "query_tickets",
        '{"topic":"late delivery","since":"monday"}',
        '{"tickets":[4411,4425,4467],"customers":["Harbor & Sons","Café Zoë","Nordlys AS"]}',
        "Three did: Harbor & Sons, Café Zoë and Nordlys AS (tickets 4411, 4425 and 4467).",
    ),
)
TURNS_EACH = 3


def user_of(number: int) -> str:
    """Whose conversation this is."""
    return USERS[number % len(USERS)]


def batches(session_id: str, number: int) -> Iterator[list[AnyRecord]]:
    """The appends of one conversation, each with its records."""
    prompt = "You are a helpful assistant. Use the tools, and keep it short."
    opening: list[AnyRecord] = [Message.of("system", prompt)]
    for place in range(TURNS_EACH):
        turn = _TURNS[(number * TURNS_EACH + place) % len(_TURNS)]
        model = _MODELS[(number + place) % len(_MODELS)]
        yield [*opening, Message.of("user", turn.asked)]
        yield from _answer(turn, f"{session_id}/{place}", model, 180 + 90 * place + number % 7)
        opening = []


def _answer(
    turn: Turn, request_id: str, model: tuple[str, str, Decimal, Decimal], tokens: int
) -> Iterator[list[AnyRecord]]:
    call_id = f"call_{request_id[-6:]}"
    call = ToolCallPart(id=call_id, name=turn.tool, arguments=turn.arguments)
    first, second = f"{request_id}/a", f"{request_id}/b"
    yield [LLMRequest(request_id=first, provider=model[0], model=model[1])]
    yield [
        Message.of("assistant", [call]),
        *_billed(first, model, tokens, 24, finish_reason="tool_calls"),
    ]
    yield [
        ToolCall(
            name=turn.tool,
            input=turn.arguments,
            output=turn.result,
            duration=0.08,
            call_id=call_id,
        ),
        Message.of("tool", [ToolResultPart(id=call_id, result=turn.result)]),
    ]
    yield [
        LLMRequest(request_id=second, provider=model[0], model=model[1]),
        Message.of("assistant", turn.answer),
        *_billed(second, model, tokens + 60, len(turn.answer) // 4, finish_reason="stop"),
    ]


def _billed(
    request_id: str,
    model: tuple[str, str, Decimal, Decimal],
    tokens_in: int,
    tokens_out: int,
    finish_reason: str,
) -> list[AnyRecord]:
    provider, name, price_in, price_out = model
    cost_in, cost_out = tokens_in * price_in / _MILLION, tokens_out * price_out / _MILLION
    return [
        LLMResponse(
            request_id=request_id,
            provider=provider,
            model=name,
            finish_reason=finish_reason,
            response_time=0.4 + tokens_out / 80,
        ),
        TokenUsage(
            request_id=request_id,
            provider=provider,
            model=name,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            total_tokens=tokens_in + tokens_out,
            source="provider",
        ),
        Cost(
            request_id=request_id,
            provider=provider,
            model=name,
            input_cost=cost_in,
            output_cost=cost_out,
            total_cost=cost_in + cost_out,
            price_source="demo",
        ),
    ]
