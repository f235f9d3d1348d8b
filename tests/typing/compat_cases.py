"""Type-checked and never run: what synchronous code may write, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import asynchistory
from asynchistory import (
    Appended,
    EnhancedCacheManager,
    Event,
    FactoryStatistics,
    HistoryPage,
    HistoryQuery,
    LLMClient,
    MemoryStorage,
    Message,
    SearchHit,
    Session,
    StoredRecord,
    open_history,
)
from asynchistory_compat import (
    Conversation,
    HistoryManager,
    LLMFactory,
    SyncCacheAdapter,
    Watch,
    configure,
    get_history,
    safe_async_call,
)


def a_history_from_any_kind_of_storage() -> None:
    HistoryManager()
    HistoryManager("chat.db", EnhancedCacheManager(), True, timeout=5)
    HistoryManager(Path("chat.db"), use_sync_cache=False)
    HistoryManager(open_history("chat.db"))
    HistoryManager(MemoryStorage())
    HistoryManager(3)  # type: ignore[arg-type]
    HistoryManager("chat.db", timeout="5")  # type: ignore[arg-type]
    assert_type(get_history(), HistoryManager)


def results_have_the_types_of_the_async_ones(history: HistoryManager) -> None:
    assert_type(history.append("chat", Message.of("user", "Hi!")), Appended)
    assert_type(history.record_message("chat", "user", "Hi!"), Message)
    assert_type(history.last("chat"), tuple[StoredRecord, ...])
    assert_type(history.last("chat", 5, level="cached"), tuple[StoredRecord, ...])
    assert_type(history.peek("chat"), tuple[StoredRecord, ...] | None)
    assert_type(history.query_history(HistoryQuery("chat")), HistoryPage)
    assert_type(history.create_session("chat", user_id="mia"), Session)
    assert_type(history.search("word"), tuple[SearchHit, ...])
    assert_type(history.with_timeout(5).count().sessions, int)
    assert_type(history.get_cache_stats().hits, int)
    with history as entered:
        assert_type(entered, HistoryManager)


def wrong_arguments_are_errors(history: HistoryManager) -> None:
    history.last(3)  # type: ignore[arg-type]
    history.last("chat", "5")  # type: ignore[arg-type]
    history.last("chat", level="sometimes")  # type: ignore[arg-type]
    history.last()  # type: ignore[call-arg]
    history.last("chat", 5, 6)  # type: ignore[call-arg, arg-type]
    history.record_message("chat", "user", "Hi!", colour="red")  # type: ignore[call-arg]
    history.create_session("chat", "mia")  # type: ignore[call-arg]
    history.query_history("chat")  # type: ignore[arg-type]


def missing_methods_are_errors(history: HistoryManager) -> None:
    history.lasst("chat")  # type: ignore[attr-defined]
    history.watch("chat").send(1)  # type: ignore[attr-defined]
    LLMFactory().make("openai", "m")  # type: ignore[attr-defined]


def nothing_is_awaited(history: HistoryManager) -> None:
    async def wrong() -> None:
        await history.count()  # type: ignore[misc]

    safe_async_call(wrong())


def streams(history: HistoryManager) -> None:
    with history.watch("chat", after_seq=0) as records:
        assert_type(records, Watch)
        assert_type(next(records), StoredRecord)
        assert_type(records.seq, int)
        assert_type(records.epoch, int)
    with history.export("chat", user_id="mia") as lines:
        for line in lines:
            assert_type(line, bytes)
        assert_type(lines.target.sessions, int)
    history.watch("chat", after="x")  # type: ignore[call-arg]


def models(history: HistoryManager) -> None:
    factory = LLMFactory(timeout=5)
    assert_type(factory.get("openai", "gpt-4o", temperature=0.5, seed=1), LLMClient)
    assert_type(factory.get_cache_stats(), FactoryStatistics)
    assert_type(factory.clear_llm_cache(), int)
    factory.get("openai")  # type: ignore[call-arg]
    factory.get("openai", "gpt-4o", temperature="warm")  # type: ignore[arg-type]

    with Conversation(history, provider="openai", model="m", prompt="Be short.") as conversation:
        assert_type(conversation, Conversation)
        for event in conversation.send("Hi!"):
            assert_type(event, Event)
        assert_type(conversation.ask("Hi!"), Message)
        assert_type(conversation.llm, LLMClient)
        assert_type(conversation.session_id, str)
        conversation.ask(3)  # type: ignore[arg-type]
    Conversation(open_history("chat.db"), provider="openai", model="m", factory=factory.target)
    Conversation(history, provider="openai")  # type: ignore[call-arg]
    Conversation(history, provider="openai", model=3)  # type: ignore[arg-type]
    Conversation("chat.db", provider="openai", model="m")  # type: ignore[arg-type]


def caches_and_coroutines() -> None:
    cache = SyncCacheAdapter(EnhancedCacheManager(), timeout=None)
    assert_type(cache.remove("key"), bool)
    assert_type(cache.clear(), int)
    cache.set("key", 1, ttl="long")  # type: ignore[arg-type]
    SyncCacheAdapter({})  # type: ignore[arg-type]

    async def answer() -> int:
        return 42

    assert_type(safe_async_call(answer(), timeout=5), int)
    safe_async_call(answer)  # type: ignore[arg-type]
    configure(backend="trio", loop_policy="allow")
    configure(backend="twisted")  # type: ignore[arg-type]
    asynchistory.LLMFactory().peek_client("openai")  # type: ignore[call-arg]
