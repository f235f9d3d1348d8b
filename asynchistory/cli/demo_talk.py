"""The conversations of the demo: customers, a model, and the tools that it uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from asynchistory.llm.prices import Price
from asynchistory.testing import CallTool, Reply
from asynchistory.tools import Tool

PROMPT = "You are a helpful assistant. Use the tools, and keep it short."
USERS = ("mia", "ravi", "chen", "olga", "tariq")
#: The models of the demo and the (made up) prices of a million of their tokens.
PRICES = {
    "gpt-4o": Price(input=2.5, output=10),
    "gpt-4o-mini": Price(input=0.15, output=0.6),
    "mistral-large": Price(input=1.8, output=5.4, currency="EUR"),
}
_MODELS = tuple(PRICES)
TURNS_EACH = 1


async def find_flights(to: str, date: str) -> Any:
    """Flights to an airport on a day that have seats left."""
    early = {"number": "TP1351", "departs": "11:05", "seats": 7}
    late = {"number": "TP1363", "departs": "18:40", "seats": 2}
    return {"to": to, "date": date, "flights": [early, late]}


async def rebook(booking: str, flight: str, seat: str) -> Any:
    """Move a booking to another flight."""
    return {"booking": booking, "flight": flight, "seat": f"12A ({seat})", "price_difference": 0}


async def track_baggage(booking: str) -> Any:
    """Where the bags of a booking are."""
    bag = {"tag": "0047 TP 552911", "status": "checked through to LIS"}
    return {"booking": booking, "bags": [bag]}


async def search_docs(query: str) -> Any:
    """Search the documentation."""
    hits = [
        "find_package(Threads REQUIRED)",
        "target_link_libraries(app PRIVATE Threads::Threads)",
    ]
    return {"query": query, "hits": hits}


async def get_weather(city: str, day: str) -> Any:
    """The forecast for a city."""
    return {"city": city, "day": day, "high": 17, "low": 9, "sky": "cloudy"}


async def query_tickets(topic: str, since: str) -> Any:
    """Support tickets on a topic."""
    customers = ["Harbor & Sons", "Café Zoë", "Nordlys AS"]
    return {"topic": topic, "since": since, "tickets": [4411, 4425, 4467], "customers": customers}


TOOLS = tuple(
    Tool(function)
    for function in (
        find_flights,
        rebook,
        track_baggage,
        search_docs,
        get_weather,
        query_tickets,
    )
)


class Talk(NamedTuple):
    """What is asked, the tool that finds out, and what is answered."""

    asked: str
    tool: str
    arguments: dict[str, str]
    answer: str


_TALKS = (
    Talk(
        "Hi! My flight to Lisbon was cancelled. What are my options?",
        "find_flights",
        {"to": "LIS", "date": "2026-03-14"},
        "I'm sorry about that. There are two flights today with seats left: TP1351 at 11:05 and "
        "TP1363 at 18:40. Shall I move you to one of them?",
    ),
    Talk(
        "The early one, please. Can I keep my window seat?",
        "rebook",
        {"booking": "K3XQ9P", "flight": "TP1351", "seat": "window"},
        "Done: you are on TP1351 at 11:05, seat 12A, a window, at no extra cost.",
    ),
    Talk(
        "And what about my suitcase?",
        "track_baggage",
        {"booking": "K3XQ9P"},
        "Your suitcase (tag 0047 TP 552911) is checked through to Lisbon; nothing to do for you.",
    ),
    Talk(
        "Our build fails with `undefined reference to pthread_create`. C++20, CMake.",
        "search_docs",
        {"query": "CMake Threads::Threads link"},
        "The linker is missing the thread library. Add `find_package(Threads REQUIRED)` and link "
        "`Threads::Threads` to your target.",
    ),
    Talk(
        "东京明天天气怎么样?",
        "get_weather",
        {"city": "Tokyo", "day": "tomorrow"},
        "东京明天多云，最高气温17度，最低9度。",
    ),
    Talk(
        "Which of our customers wrote about late deliveries this week?",
        "query_tickets",
        {"topic": "late delivery", "since": "monday"},
        "Three did: Harbor & Sons, Café Zoë and Nordlys AS (tickets 4411, 4425 and 4467).",
    ),
)
_BY_QUESTION = {talk.asked: talk for talk in _TALKS}


def user_of(number: int) -> str:
    """Whose conversation this is."""
    return USERS[number % len(USERS)]


def model_of(number: int) -> str:
    """The model that this conversation is held with."""
    return _MODELS[number % len(_MODELS)]


def price_of(provider: str, model: str) -> Price | None:
    """What the tokens of a model cost."""
    return PRICES.get(model)


def questions(number: int) -> Iterator[str]:
    """What is asked in a conversation."""
    for place in range(TURNS_EACH):
        yield _TALKS[(number * TURNS_EACH + place) % len(_TALKS)].asked


def reply_to(request: dict[str, Any]) -> Reply:
    """What the model on this machine answers: it asks for a tool, and then uses its result."""
    messages = request["messages"]
    asked = next(one["content"] for one in reversed(messages) if one["role"] == "user")
    talk = _BY_QUESTION[asked]
    if messages[-1]["role"] == "tool":
        return Reply(talk.answer, chunk_size=16)
    return Reply(tool_calls=[CallTool(talk.tool, talk.arguments)], chunk_size=32)
