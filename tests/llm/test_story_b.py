"""Story B: many requests at once, each for another user, and one LLM instance for all of them."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

import asynchistory
from asynchistory import AsyncHistoryManager, Conversation, LLMFactory, open_history
from asynchistory_compat import (
    Conversation as SyncConversation,
    HistoryManager,
    LLMFactory as SyncFactory,
)


@pytest.fixture
def history() -> Iterator[HistoryManager]:
    with HistoryManager("memory://") as manager:
        yield manager


@pytest.mark.parametrize("number", [10, 100])
def test_concurrent_initialization(number: int, history: HistoryManager) -> None:
    """Each of many threads opens a conversation for another user: one LLM instance."""
    factory = SyncFactory(LLMFactory())
    barrier = threading.Barrier(number)

    def open_one(user: int) -> asynchistory.LLMClient:
        barrier.wait()
        with SyncConversation(
            history, factory=factory, provider="scripted", model="m", user_id=f"user-{user}"
        ) as conversation:
            return conversation.llm

    with ThreadPoolExecutor(number) as pool:
        instances = list(pool.map(open_one, range(number)))
    assert len({id(instance) for instance in instances}) == 1
    assert factory.get_cache_stats().creations == 1
    assert len(history.list_sessions()) == number


@pytest.mark.anyio
async def test_concurrent_initialization_by_tasks() -> None:
    factory = LLMFactory()
    instances: list[object] = []

    async def open_one(user: int) -> None:
        async with Conversation(
            history, factory=factory, provider="scripted", model="m", user_id=f"user-{user}"
        ) as conversation:
            instances.append(conversation.llm)

    async with open_history("memory://") as history, anyio.create_task_group() as group:
        for user in range(100):
            group.start_soon(open_one, user)
    assert len(instances) == 100
    assert len({id(instance) for instance in instances}) == 1
    assert factory.get_cache_stats().creations == 1


def test_cache_key_isolation(history: HistoryManager) -> None:
    """Another model or temperature is another instance."""
    factory = SyncFactory(LLMFactory())

    def instance(**options: object) -> object:
        wanted = {"provider": "scripted", "model": "m", **options}
        with SyncConversation(history, factory=factory, **wanted) as conversation:
            return conversation.llm

    assert instance() is instance()
    assert instance() is not instance(model="other")
    assert factory.get_cache_stats().size == 2
    assert instance(temperature=0) is not instance(temperature=0.5)
    assert factory.get_cache_stats().size == 4


def test_cache_cleanup() -> None:
    """After a clear nothing is held, and the statistics say so."""
    factory = SyncFactory(LLMFactory())
    for model in ("a", "b", "c"):
        factory.get("scripted", model)
    assert factory.get_cache_stats().size == 3
    assert factory.clear_llm_cache() == 3
    assert factory.get_cache_stats() == (0,) * 8
    assert factory.peek("a") is None
    factory.get("scripted", "a")
    assert factory.get_cache_stats().creations == 1


@pytest.mark.anyio
async def test_high_concurrency() -> None:
    """A hundred turns at once: no deadlock, and nothing twice."""
    factory = LLMFactory()
    answers: list[str] = []

    async def talk(history: AsyncHistoryManager, user: int) -> None:
        async with Conversation(
            history, factory=factory, provider="scripted", model="m", session_id=f"chat-{user}"
        ) as conversation:
            answers.append((await conversation.ask(f"I am {user}")).text)

    with anyio.fail_after(60):
        async with open_history("memory://") as history:
            async with anyio.create_task_group() as group:
                for user in range(100):
                    group.start_soon(talk, history, user)
            assert sorted(answers) == sorted(f"You said: I am {user}" for user in range(100))
            counts = await history.count()
    assert factory.get_cache_stats().creations == 1
    assert counts.sessions == 100
    assert counts.roles == {"assistant": 100, "user": 100}
    assert counts.record_types["llm_request"] == counts.record_types["llm_response"] == 100


@pytest.mark.anyio
async def test_memory_usage() -> None:
    """Ten thousand conversations opened and closed take no more than the first hundred did."""
    factory = LLMFactory()

    async def open_and_close(history: AsyncHistoryManager, number: int) -> None:
        # One session for all, for what a store keeps of each is not what is measured here.
        for _ in range(number):
            async with Conversation(
                history, factory=factory, provider="scripted", model="m", session_id="chat"
            ):
                pass

    async with open_history("memory://") as history:
        await open_and_close(history, 100)
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await open_and_close(history, 10_000)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before <= 1024 * 1024
    assert factory.get_cache_stats().size == 1
