"""What calls cost: by a price of one's own, by the list of genai-prices, or unknown."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from asynchistory import (
    Completion,
    Conversation,
    Cost,
    LLMFactory,
    Message,
    Price,
    ScriptedClient,
    Usage,
    UsageEvent,
    open_history,
    register_provider,
)
from asynchistory.llm.key import client_key
from asynchistory.llm.port import ChatRequest
from asynchistory.llm.prices import by_list, by_price

genai_prices = pytest.importorskip("genai_prices")

USAGE = Usage(
    input_tokens=1000, output_tokens=100, total_tokens=1100, cached_tokens=400, reasoning_tokens=60
)


def listed(provider: str, model: str, usage: Usage) -> Any:
    """What genai-prices itself says."""
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
    )
    return genai_prices.calc_price(tokens, model, provider_id=provider)


@pytest.mark.parametrize(
    ("provider", "model", "listed_as"),
    [
        ("openai", "gpt-4o", "openai"),
        ("openai", "gpt-4o-2024-08-06", "openai"),
        ("anthropic", "claude-sonnet-4-5", "anthropic"),
        ("langchain:google_genai", "gemini-2.5-flash", "google"),
    ],
)
@pytest.mark.anyio
async def test_cost_by_the_list(provider: str, model: str, listed_as: str) -> None:
    amounts = await by_list(client_key(provider, model), model, USAGE)
    wanted = listed(listed_as, model, USAGE)
    assert amounts is not None
    assert (amounts.input_cost, amounts.output_cost) == (wanted.input_price, wanted.output_price)
    assert amounts.total_cost == wanted.total_price > 0
    assert type(amounts.total_cost) is Decimal
    assert amounts.currency == "USD"
    assert amounts.price_source.startswith("genai-prices ")
    # Cached tokens are cheaper and part of the input; reasoning is part of the output.
    uncached = await by_list(
        client_key(provider, model), model, Usage(input_tokens=1000, output_tokens=100)
    )
    assert uncached is not None
    assert uncached.input_cost > amounts.input_cost
    assert uncached.output_cost == amounts.output_cost


@pytest.mark.parametrize(
    ("key", "usage"),
    [
        (client_key("openai", "no-such-model"), USAGE),
        (client_key("scripted", "gpt-4o"), USAGE),
        (client_key("openai", "gpt-4o", base_url="http://127.0.0.1:8000/v1"), USAGE),
        (client_key("google", "gemma-3"), USAGE),  # listed, without a price
        (client_key("openai", "gpt-4o"), Usage(input_tokens=1000)),
        (client_key("openai", "gpt-4o"), Usage(output_tokens=1000)),
        (client_key("openai", "gpt-4o"), Usage(input_tokens=1, output_tokens=1, cached_tokens=2)),
    ],
    ids=["model", "provider", "endpoint", "no price", "no output", "no input", "impossible"],
)
@pytest.mark.anyio
async def test_what_is_not_known_costs_unknown_and_not_nothing(key: Any, usage: Usage) -> None:
    assert await by_list(key, key.model, usage) is None


@pytest.mark.anyio
async def test_the_endpoint_says_who_is_paid() -> None:
    key = client_key("openai", "gpt-4o", base_url="https://api.openai.com/v1")
    amounts = await by_list(key, "gpt-4o", USAGE)
    assert amounts is not None
    assert amounts.total_cost == listed("openai", "gpt-4o", USAGE).total_price


@pytest.mark.anyio
async def test_a_name_that_only_the_answer_has_is_looked_up_too() -> None:
    key = client_key("openai", "our-own-name-for-it")
    assert await by_list(key, "gpt-4o", USAGE) is not None
    assert await by_list(client_key("openai", "gpt-4o"), "a-name-of-theirs", USAGE) is not None


@pytest.mark.parametrize(
    ("price", "amounts"),
    [
        (Price(input=2.5, output=10), ("0.0025", "0.001")),
        (
            Price(input=Decimal("2.5"), output=Decimal(10), cached=Decimal("1.25")),
            ("0.002", "0.001"),
        ),
        (Price(input=0.1, output=0.2, cached=0), ("0.00006", "0.00002")),
    ],
)
def test_cost_by_a_price_is_exact(price: Price, amounts: tuple[str, str]) -> None:
    found = by_price(price, USAGE)
    assert found is not None
    assert (found.input_cost, found.output_cost) == tuple(map(Decimal, amounts))
    assert found.total_cost == found.input_cost + found.output_cost
    assert found.price_source == "application"


@pytest.mark.parametrize("usage", [Usage(input_tokens=1), Usage(output_tokens=1)])
def test_cost_by_a_price_is_unknown_where_tokens_are(usage: Usage) -> None:
    assert by_price(Price(input=1, output=1), usage) is None


# -- in a conversation


class Counted(ScriptedClient):
    """Answers with known numbers of tokens."""

    async def complete(self, request: ChatRequest) -> Completion:
        return Completion(
            message=Message.of("assistant", "ok"), model="gpt-4o", usage=USAGE, response_time=0.0
        )


async def talk(price: Any, model: str = "gpt-4o") -> tuple[list[Cost], list[Cost | None]]:
    """What is recorded as cost, and what is told."""
    register_provider("openai-like", lambda config: Counted(config.key))
    factory = LLMFactory()
    client = await factory.get("openai-like", model)
    client.key = client_key("openai", model)
    async with (
        open_history("memory://") as history,
        Conversation(
            history, factory=factory, provider="openai-like", model=model, session_id="chat",
            price=price,
        ) as conversation,
    ):  # fmt: skip
        async with conversation.send("Hi!") as events:
            told = [event.cost async for event in events if isinstance(event, UsageEvent)]
        records = await history.last("chat", 20)
        statistics = await history.get_cost_statistics("chat")
    costs = [record for record in records if isinstance(record, Cost)]
    assert statistics.calls == len(costs)
    return costs, told


@pytest.mark.anyio
async def test_a_conversation_without_a_price_takes_that_of_the_list() -> None:
    [cost], [told] = await talk(None)
    assert cost.total_cost == listed("openai", "gpt-4o", USAGE).total_price
    assert (cost.provider, cost.model, cost.currency) == ("openai", "gpt-4o", "USD")
    assert cost.price_source is not None
    assert cost.price_source.startswith("genai-prices ")
    assert told is not None
    assert told.total_cost == cost.total_cost


@pytest.mark.anyio
async def test_a_price_of_one_s_own_goes_first() -> None:
    [cost], _ = await talk(lambda *_: Price(input=1, output=1, currency="EUR", source="contract 7"))
    assert (cost.total_cost, cost.currency) == (Decimal("0.0011"), "EUR")
    assert cost.price_source == "contract 7"


@pytest.mark.anyio
async def test_a_price_that_is_not_known_is_none() -> None:
    assert await talk(lambda *_: None) == ([], [None])


PROGRAM = """
import sys, anyio
class No:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "genai_prices":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, No())
from asynchistory import Usage
from asynchistory.llm.key import client_key
from asynchistory.llm.prices import by_list
call = client_key("openai", "gpt-4o"), "gpt-4o", Usage(input_tokens=1, output_tokens=1)
for backend in ("asyncio", "trio"):
    assert anyio.run(by_list, *call, backend=backend) is None
"""


def test_without_the_package_costs_are_unknown() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
