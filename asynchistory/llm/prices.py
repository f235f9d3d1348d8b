"""What a model call costs: by the application's own price, or by the list of genai-prices.

genai-prices is an extra, ``cost``. Its list comes with it, so that nothing is asked of the network.
What is not known is None, which is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeAlias

import anyio.to_thread
import msgspec

from asynchistory.llm.key import ClientKey
from asynchistory.records import Usage, money


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's tokens cost: money for a million of them.

    Attributes:
        input: of what is sent.
        output: of what is answered, reasoning included.
        cached: of that part of the input which the provider had in its cache; None for no less
            than the rest.
        currency: such as ``USD``.
        source: where the price is from, as it is recorded with each cost.
    """

    input: Decimal | float
    output: Decimal | float
    cached: Decimal | float | None = None
    currency: str = "USD"
    source: str = "application"


#: Gives the price of a model's tokens by provider and model, None if it is not known.
PriceOf: TypeAlias = Callable[[str, str], Price | None]


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one call costs. The names are those of a :class:`~asynchistory.Cost`."""

    input_cost: Decimal
    output_cost: Decimal
    total_cost: Decimal
    currency: str
    price_source: str


def by_price(price: Price, usage: Usage) -> Amounts | None:
    """What a call costs at this price; None where the tokens are not known."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached = 0 if price.cached is None else min(usage.cached_tokens or 0, usage.input_tokens)
    sent = _million(price.input, usage.input_tokens - cached) + _million(price.cached or 0, cached)
    return _amounts(sent, _million(price.output, usage.output_tokens), price.currency, price.source)


async def by_list(key: ClientKey, model: str, usage: Usage) -> Amounts | None:
    """What a call costs by genai-prices; None if that is not installed or does not know it.

    Args:
        key: the provider and its endpoint, and the model that was asked for.
        model: the model that answered, as the provider names it.
        usage: its tokens.
    """
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    if _prices.cache_info().currsize:
        return _look_up(key, model, usage)
    # In a thread the first time, for the import and the first look into the list take a while.
    return await anyio.to_thread.run_sync(_look_up, key, model, usage)


def _look_up(key: ClientKey, model: str, usage: Usage) -> Amounts | None:
    prices, source = _prices()
    if prices is None:
        return None
    tokens = prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens or 0,
    )
    for name in dict.fromkeys((model, key.model)):
        try:
            found = prices.calc_price(tokens, name, **_provider(key))
        except (LookupError, ValueError):  # not in the list, or numbers that cannot be
            continue
        listed = found.model_price
        if listed.input_mtok is not None and listed.output_mtok is not None:
            return _amounts(found.input_price, found.output_price, "USD", source)
    return None


def _provider(key: ClientKey) -> dict[str, Any]:
    """Who is paid: who runs the endpoint, where one is given, for others sell the same names."""
    if key.base_url:
        return {"provider_api_url": key.base_url}
    return {"provider_id": key.provider.removeprefix("langchain:")}


@cache
def _prices() -> tuple[Any, str]:
    """The package, None if it is not installed, and its name as a source."""
    try:
        prices = import_module("genai_prices")
    except ImportError:
        return None, ""
    with suppress(LookupError):  # its list is loaded by the first look into it
        prices.calc_price(prices.Usage(input_tokens=1), "gpt-4o", provider_id="openai")
    return prices, f"genai-prices {version('genai-prices')}"


def _million(price: Decimal | float, tokens: int) -> Decimal:
    exact = Decimal(repr(price)) if isinstance(price, float) else Decimal(price)
    return exact * tokens / 1_000_000


def _amounts(sent: Decimal, received: Decimal, currency: str, source: str) -> Amounts:
    sent, received = money(sent), money(received)
    return Amounts(
        input_cost=sent,
        output_cost=received,
        total_cost=sent + received,
        currency=currency,
        price_source=source,
    )
