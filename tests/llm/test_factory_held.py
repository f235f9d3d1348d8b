"""What a factory holds, for how long, and how it is found: bounds, look-ups, keys, statistics."""

from __future__ import annotations

import copy
import enum
import gc
import itertools
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asynchistory import (
    ClientCreationError,
    ConfigurationError,
    InvalidInputError,
    LLMAuthenticationError,
    LLMFactory,
    register_provider,
)
from asynchistory.llm.key import client_key, secret_of
from asynchistory.testing import LoopbackLLM
from tests.llm.asking import HI


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def made(name: str) -> str:
    return f"made for {name}"


async def get(factory: LLMFactory, name: str) -> Any:
    return await factory.get_or_create(name, lambda: made(name))


def held(factory: LLMFactory, *names: str) -> str:
    """Those of these names that are held, without looking like a use."""
    return "".join(name for name in names if name in factory._held.by_key)


# -- bounds


@pytest.mark.anyio
async def test_the_least_recently_used_goes_first() -> None:
    ticks = itertools.count()
    factory = LLMFactory(max_entries=3, clock=lambda: float(next(ticks)))
    for name in "abc":
        await get(factory, name)
    await get(factory, "a")
    assert factory.peek("b") is not None
    await get(factory, "d")
    assert held(factory, *"abcd") == "abd"
    await get(factory, "e")
    assert held(factory, *"abcde") == "bde"
    statistics = factory.get_cache_stats()
    assert (statistics.size, statistics.evictions, statistics.creations) == (3, 2, 5)


@pytest.mark.anyio
async def test_a_hit_by_arguments_is_a_use() -> None:
    ticks = itertools.count()
    factory = LLMFactory(max_entries=2, clock=lambda: float(next(ticks)))
    first = await factory.get("scripted", "first")
    await factory.get("scripted", "second")
    assert await factory.get("scripted", "first") is first
    await factory.get("scripted", "third")
    assert factory.peek_client("scripted", "second") is None
    assert await factory.get("scripted", "first") is first
    assert len(factory._held.by_arguments) == 2


@pytest.mark.anyio
async def test_what_is_idle_for_too_long_is_made_anew() -> None:
    clock = Clock()
    factory = LLMFactory(idle_ttl=60, clock=clock)
    first = await factory.get("scripted", "m")
    for _ in range(3):
        clock.now += 59
        assert await factory.get("scripted", "m") is first
    clock.now += 60
    assert factory.peek_client("scripted", "m") is None
    assert factory.get_cache_stats().size == 0
    assert factory.get_cache_stats().evictions == 1
    assert await factory.get("scripted", "m") is not first
    clock.now += 60
    second = await factory.get("scripted", "m")
    assert await factory.get("scripted", "m") is second
    assert factory.get_cache_stats().creations == 3


@pytest.mark.anyio
async def test_an_instance_that_was_let_go_of_works_on() -> None:
    with LoopbackLLM() as server:
        factory = LLMFactory(max_entries=1)
        client = await factory.get("openai", "m", base_url=server.url)
        async with client.stream(HI) as events:
            await anext(aiter(events))
            await factory.get("openai", "other", base_url=server.url)
            factory.clear_llm_cache()
            pieces = [event async for event in events]
        assert pieces
        assert (await client.complete(HI)).message.text


@pytest.mark.anyio
async def test_what_is_let_go_of_is_not_kept_alive() -> None:
    class Instance:
        pass

    async def create() -> Instance:
        return Instance()

    factory = LLMFactory(max_entries=1)
    gone = weakref.ref(await factory.get_or_create("a", create))
    await factory.get_or_create("b", create)
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_entries": 0},
        {"max_entries": True},
        {"max_entries": 2.0},
        {"idle_ttl": 0},
        {"idle_ttl": float("nan")},
        {"idle_ttl": -1.0},
    ],
    ids=str,
)
def test_bounds_are_above_zero(bounds: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(bounds))):
        LLMFactory(**bounds)


# -- the arguments of a configuration


@pytest.mark.parametrize(
    "temperature",
    [True, False, "0", float("nan"), float("inf"), 10**400, Decimal(1), Fraction(1), 1j, [1]],
    ids=repr,
)
@pytest.mark.anyio
async def test_a_temperature_is_refused_whatever_is_held(temperature: Any) -> None:
    factory = LLMFactory()
    for number in (0, 1):  # equal to some of them, as True is to 1
        await factory.get("scripted", "m", temperature=number)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="temperature"):
            await factory.get("scripted", "m", temperature=temperature)
        with pytest.raises(InvalidInputError, match="temperature"):
            factory.peek_client("scripted", "m", temperature=temperature)


@pytest.mark.parametrize("seconds", [True, 0, -1, float("nan"), None, "60"], ids=repr)
@pytest.mark.anyio
async def test_a_timeout_is_a_number_above_zero(seconds: Any) -> None:
    factory = LLMFactory()
    first = await factory.get("scripted", "m", timeout=1)
    assert await factory.get("scripted", "m", timeout=1.0) is first
    with pytest.raises(InvalidInputError, match="timeout"):
        await factory.get("scripted", "m", timeout=seconds)


@pytest.mark.anyio
async def test_one_configuration_however_it_is_spelled() -> None:
    class Model(enum.StrEnum):
        SMALL = "m"

    factory = LLMFactory()
    first = await factory.get("scripted", "m", temperature=0, base_url="https://x/v1")
    spellings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": -0.0},
        {"temperature": 0, "base_url": "https://x/v1/"},
        {"temperature": 0.0, "base_url": "https://x/v1//"},
    ]
    for spelling in spellings * 2:
        arguments = {"base_url": "https://x/v1", **spelling}
        assert await factory.get("scripted", Model.SMALL, **arguments) is first
        assert factory.peek_client("scripted", "m", **arguments) is first
    assert type(first.key.model) is str
    assert len(factory._held.by_arguments) <= 4
    assert factory.get_cache_stats() == (16, 1, 0, 1, 0, 0, 0, 1)


@pytest.mark.anyio
async def test_options_tell_instances_apart_by_their_json() -> None:
    factory = LLMFactory()
    asked: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": True},
        {"seed": 1.0},
        {"stop": ["a", "b"]},
        {"stop": ["b", "a"]},
        {"timeout": 5.0},
        {},
    ]
    clients = [await factory.get("scripted", "m", **options) for options in asked]
    assert len({id(client) for client in clients}) == len(asked)
    again = [await factory.get("scripted", "m", **options) for options in asked]
    assert [id(client) for client in again] == [id(client) for client in clients]
    both = await factory.get("scripted", "m", top_p=1, seed=2)
    assert await factory.get("scripted", "m", seed=2, top_p=1) is both
    with pytest.raises(InvalidInputError, match="options"):
        await factory.get("scripted", "m", seed=float("nan"))


@pytest.mark.parametrize("name", ["", None, 7, ["openai"]], ids=repr)
@pytest.mark.anyio
async def test_provider_and_model_are_text(name: Any) -> None:
    factory = LLMFactory()
    with pytest.raises(InvalidInputError, match="provider and model"):
        await factory.get(name, "m")
    with pytest.raises(InvalidInputError, match="provider and model"):
        await factory.get("scripted", name)


# -- credentials


class Vault:
    """A source of secrets whose method is another object each time that it is looked up."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def give(self) -> str:
        return self.secret

    async def fetch(self) -> str:
        await anyio.lowlevel.checkpoint()
        return self.secret


@pytest.mark.parametrize("source", ["give", "fetch"])
@pytest.mark.anyio
async def test_a_function_gives_the_key_of_the_moment(source: str) -> None:
    vault = Vault("sk-one")
    factory = LLMFactory()
    with LoopbackLLM() as server:
        for secret in ("sk-one", "sk-two\n"):
            vault.secret = secret
            client = await factory.get(
                "openai", "m", base_url=server.url, api_key=getattr(vault, source)
            )
            await client.complete(HI)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer sk-one", "Bearer sk-two"]
    assert factory.get_cache_stats().creations == 1


@pytest.mark.anyio
async def test_a_function_s_identity_is_not_given_again() -> None:
    """id() is: of what was made in the place of what has died."""
    factory = LLMFactory()
    keys = []
    for number in range(200):
        secret = f"sk-{number}"
        keys.append((await factory.get("scripted", "m", api_key=lambda secret=secret: secret)).key)
    assert len(set(keys)) == 200
    assert factory.get_cache_stats().creations == 200


def test_a_key_keeps_its_function() -> None:
    def give() -> str:
        return "sk"

    alive = weakref.ref(give)
    key = client_key("openai", "m", api_key=give)
    assert key == client_key("openai", "m", api_key=give)
    del give
    gc.collect()
    assert alive() is not None
    del key
    gc.collect()
    assert alive() is None


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self) -> str:
        return "sk"


@pytest.mark.anyio
async def test_a_function_object_without_a_hash_will_do() -> None:
    factory = LLMFactory()
    one, two = Unhashable(), Unhashable()
    first = await factory.get("scripted", "m", api_key=one)
    assert await factory.get("scripted", "m", api_key=one) is first
    assert await factory.get("scripted", "m", api_key=two) is not first


@pytest.mark.parametrize("given", [RuntimeError("sk-canary"), 7, b"sk-canary", "sk-\ncanary", "é"])
@pytest.mark.anyio
async def test_a_key_that_cannot_be_had_is_an_error_of_authentication(given: Any) -> None:
    async def give() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    client = await LLMFactory().get("openai", "m", base_url="http://127.0.0.1:1", api_key=give)
    with pytest.raises(LLMAuthenticationError, match="API key") as caught:
        await client.complete(HI)
    assert caught.value.provider == "openai"
    assert caught.value.__context__ is None


@pytest.mark.anyio
async def test_no_key_is_no_error() -> None:
    assert await secret_of(lambda: None, "openai") == ""


# -- look-ups, statistics and the end


def test_hits_are_counted_exactly_from_any_number_of_threads() -> None:
    factory = LLMFactory()
    barrier = threading.Barrier(8)

    async def ask() -> None:
        barrier.wait()
        for _ in range(5000):
            await factory.get("scripted", "m")

    anyio.run(factory.get, "scripted", "m")
    with ThreadPoolExecutor(8) as pool:
        for run in [pool.submit(anyio.run, ask) for _ in range(8)]:
            run.result()
    assert factory.get_cache_stats().hits == 40_000


@pytest.mark.anyio
async def test_a_creation_that_all_gave_up_leaves_nothing() -> None:
    factory = LLMFactory()
    with anyio.CancelScope() as scope:

        async def never() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        await factory.get_or_create("key", never)
    assert scope.cancelled_caught
    assert not factory._flights
    assert factory.get_cache_stats().hand_overs == 0
    assert await get(factory, "key") == "made for key"


@pytest.mark.anyio
async def test_a_creation_that_asks_for_itself_is_an_error_and_no_hang() -> None:
    factory = LLMFactory()

    async def first() -> Any:
        return await factory.get_or_create("second", second)

    async def second() -> Any:
        return await factory.get_or_create("first", first)

    with anyio.fail_after(10), pytest.raises(ClientCreationError, match="asks for itself"):
        await factory.get_or_create("first", first)
    assert not factory._flights
    assert await get(factory, "first") == "made for first"


@pytest.mark.anyio
async def test_closing_closes_what_can_be_closed() -> None:
    closed: list[str] = []

    class Instance:
        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise OSError("it is broken")

    async def create(name: str) -> Instance:
        return Instance(name)

    async with LLMFactory() as factory:
        for name in "abc":
            await factory.get_or_create(name, lambda name=name: create(name))
        await factory.get("scripted", "m")
        with pytest.raises(OSError, match="broken"):
            await factory.aclose()
    assert closed == ["c", "b", "a"]
    assert factory.get_cache_stats().size == 0


@pytest.mark.parametrize("copies", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_factory_is_not_copied(copies: Any) -> None:
    with pytest.raises(TypeError, match="default_factory"):
        copies(LLMFactory())


@pytest.mark.parametrize("name", ["", "a:b", None])
def test_the_name_of_a_provider_has_no_colon(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="colon"):
        register_provider(name, lambda config: None)  # type: ignore[arg-type,return-value]


@pytest.mark.anyio
async def test_an_endpoint_from_the_environment_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:sk-canary@x/v1")
    with pytest.raises(Exception, match="environment") as caught:
        await LLMFactory().get("openai", "m")
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert "canary" not in str(caught.value)
