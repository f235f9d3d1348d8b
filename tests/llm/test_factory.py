"""LLMFactory: one instance a configuration, created exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from asynchistory import (
    ClientCreationError,
    ConfigurationError,
    InvalidInputError,
    LLMFactory,
    ScriptedClient,
    register_provider,
)
from asynchistory.llm.key import client_key
from asynchistory.runs import new_lock


class Creator:
    """Makes instances; holds the first back until all who are to wait have asked."""

    def __init__(self, factory: LLMFactory, waiting: int = 0) -> None:
        self.factory = factory
        self.waiting = waiting
        self.made = 0
        self.fail = False
        self.cancelled = threading.Event()

    async def __call__(self) -> object:
        while self.factory.get_cache_stats().misses < self.waiting:
            await anyio.lowlevel.checkpoint()
        if self.fail:
            raise OSError("no network")
        self.made += 1
        return object()


@pytest.fixture
def factory() -> LLMFactory:
    return LLMFactory()


@pytest.mark.anyio
async def test_one_creation_for_a_hundred_tasks(factory: LLMFactory) -> None:
    create = Creator(factory, 100)
    found: list[object] = []

    async def ask() -> None:
        found.append(await factory.get_or_create("key", create))

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(ask)
    assert len(found) == 100
    assert len(set(found)) == create.made == 1
    statistics = factory.get_cache_stats()
    assert (statistics.creations, statistics.misses, statistics.size) == (1, 100, 1)
    assert await factory.get_or_create("key", create) is factory.peek("key") is found[0]


def many_loops(factory: LLMFactory, create: Callable[[], Any], runs: list[str]) -> list[object]:
    """What each of these event loops is given, all of them alive at once in their own threads."""
    barrier = threading.Barrier(len(runs))

    def one(backend: str) -> object:
        async def main() -> object:
            return await factory.get_or_create("key", create)

        barrier.wait()
        return anyio.run(main, backend=backend)

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(one, runs))


@pytest.mark.parametrize("runs", [["asyncio"] * 20, ["trio"] * 20, ["asyncio", "trio"] * 10])
def test_one_creation_for_twenty_loops(factory: LLMFactory, runs: list[str]) -> None:
    for _ in range(5):
        factory.clear_llm_cache()
        create = Creator(factory, len(runs))
        assert len(set(many_loops(factory, create, runs))) == create.made == 1


@pytest.mark.anyio
async def test_if_the_creator_is_cancelled_another_creates(factory: LLMFactory) -> None:
    create = Creator(factory, 100)
    found: list[object] = []
    first = anyio.CancelScope()
    started = anyio.Event()

    async def creator() -> None:
        async def forever() -> object:
            started.set()
            await anyio.sleep_forever()
            return None

        with first:
            await factory.get_or_create("key", forever)

    async def ask() -> None:
        found.append(await factory.get_or_create("key", create))

    async with anyio.create_task_group() as group:
        group.start_soon(creator)
        await started.wait()
        for _ in range(99):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert len(found) == 99
    assert len(set(found)) == create.made == 1
    assert factory.get_cache_stats().hand_overs == 1


@pytest.mark.parametrize("creator", ["asyncio", "trio"])
@pytest.mark.anyio
async def test_who_waits_for_another_loop_s_creation_can_be_cancelled(
    factory: LLMFactory, creator: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def create() -> str:
        begun.set()
        while not go_on.is_set():
            await anyio.lowlevel.checkpoint()
        return "made"

    async def never() -> str:
        raise AssertionError("it is being made already")

    async def ask() -> object:
        return await factory.get_or_create("key", create)

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(anyio.run, ask, backend=creator)
        assert await anyio.to_thread.run_sync(begun.wait, 10)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(factory.get_or_create, "key", never)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        finally:
            go_on.set()
        assert await anyio.to_thread.run_sync(made.result, 10) == "made"
    assert await factory.get_or_create("key", never) == "made"
    statistics = factory.get_cache_stats()
    assert (statistics.waits, statistics.creations, statistics.hand_overs) == (3, 1, 0)


@pytest.mark.anyio
async def test_a_failure_reaches_all_who_asked_and_the_next_call_tries_again(
    factory: LLMFactory,
) -> None:
    create = Creator(factory, 50)
    create.fail = True
    errors: list[ClientCreationError] = []

    async def ask() -> None:
        with pytest.raises(ClientCreationError) as caught:
            await factory.get_or_create("key", create)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert len(errors) == 50
    assert len(set(errors)) == 1
    assert isinstance(errors[0].__cause__, OSError)
    statistics = factory.get_cache_stats()
    assert (statistics.creations, statistics.failures, statistics.size) == (0, 1, 0)
    assert (statistics.misses, statistics.waits) == (50, 49)
    create.fail = False
    assert await factory.get_or_create("key", create) is not None


@pytest.mark.anyio
async def test_a_creation_under_way_does_not_survive_a_clear(factory: LLMFactory) -> None:
    started, go_on = anyio.Event(), anyio.Event()

    async def old() -> str:
        started.set()
        await go_on.wait()
        return "old"

    found: list[object] = []

    async def ask() -> None:
        found.append(await factory.get_or_create("key", old))

    async def new() -> str:
        return "new"

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await started.wait()
        factory.clear_llm_cache()
        assert await factory.get_or_create("key", new) == "new"
        go_on.set()
    assert found == ["old"]
    assert factory.peek("key") == "new"


@pytest.mark.anyio
async def test_the_guard_is_a_lock_of_the_running_loop_s_own_kind(anyio_backend: str) -> None:
    assert type(new_lock()) is (asyncio.Lock if anyio_backend == "asyncio" else trio.Lock)


@pytest.mark.anyio
async def test_get_by_configuration(factory: LLMFactory) -> None:
    first = await factory.get("scripted", "model", temperature=0)
    assert await factory.get("scripted", "model", temperature=0.0) is first
    assert await factory.get("scripted", "model", temperature=-0.0) is first
    others = [
        await factory.get("scripted", "model"),
        await factory.get("scripted", "model", temperature=1),
        await factory.get("scripted", "other", temperature=0),
        await factory.get("scripted", "model", temperature=0, base_url="https://elsewhere/v1"),
        await factory.get("scripted", "model", temperature=0, api_key="one"),
        await factory.get("scripted", "model", temperature=0, api_key="two"),
        await factory.get("scripted", "model", temperature=0, seed=1),
    ]
    assert len({id(client) for client in [first, *others]}) == 8


@pytest.mark.parametrize("temperature", [True, "0", float("nan"), float("inf")])
def test_a_temperature_is_a_finite_number(temperature: Any) -> None:
    with pytest.raises(InvalidInputError, match="temperature"):
        client_key("openai", "gpt-4o", temperature)


def test_a_key_holds_no_secret() -> None:
    key = client_key("openai", "gpt-4o", api_key="sk-canary")
    assert "canary" not in repr(key)
    assert key == client_key("openai", "gpt-4o", api_key="sk-canary")
    assert key != client_key("openai", "gpt-4o", api_key="sk-other")


@pytest.mark.anyio
async def test_an_unknown_provider_is_named_with_the_known_ones(factory: LLMFactory) -> None:
    with pytest.raises(ClientCreationError) as caught:
        await factory.get("nobody", "model")
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert "scripted" in str(caught.value)


@pytest.mark.anyio
async def test_a_provider_of_one_s_own(factory: LLMFactory) -> None:
    register_provider("mine", lambda config: ScriptedClient(config.key, lambda _: "mine"))
    client = await factory.get("mine", "model")
    assert client.key.provider == "mine"
