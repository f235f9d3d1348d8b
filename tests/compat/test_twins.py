"""The twins: the surfaces of the async objects, from many threads and beside async code."""

from __future__ import annotations

import gc
import inspect
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import asynchistory
from asynchistory import (
    AsyncHistoryManager,
    EnhancedCacheManager,
    HistoryQuery,
    MemoryStorage,
    Message,
    NotOpenError,
    SessionNotFoundError,
    open_history,
)
from asynchistory_compat import (
    Conversation,
    HistoryManager,
    LLMFactory,
    Stream,
    SyncCacheAdapter,
    Watch,
    configure,
    get_history,
    loop,
    safe_async_call,
)

bridge = loop.bridge
TWINS = pytest.mark.parametrize(
    ("twin", "original"),
    [
        (HistoryManager, AsyncHistoryManager),
        (LLMFactory, asynchistory.LLMFactory),
        (Conversation, asynchistory.Conversation),
        (SyncCacheAdapter, EnhancedCacheManager),
        (Watch, asynchistory.Watch),
    ],
    ids=lambda value: value.__name__,
)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """What a call can say, and what it says by default."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name != "self"]


# -- surfaces


@TWINS
def test_the_same_surface(twin: type, original: type) -> None:
    assert public(original) <= public(twin)
    attributes = {"epoch", "seq", "session_id"}  # of instances, and so not in the other's class
    assert public(twin) - public(original) - attributes <= {"close", "opened", "with_timeout"}


@TWINS
def test_the_same_signatures_and_documentation(twin: type, original: type) -> None:
    for name in public(original):
        theirs, ours = getattr(original, name), getattr(twin, name)
        if inspect.isfunction(theirs):
            assert parameters(ours) == parameters(theirs), name
            assert ours.__doc__, name
            assert not inspect.iscoroutinefunction(inspect.unwrap(ours)) or ours is not theirs


def test_the_options_of_a_conversation() -> None:
    ours, theirs = Conversation.__init__, asynchistory.Conversation.__init__
    assert parameters(ours) == parameters(theirs)


def test_attributes_of_a_watch(history: HistoryManager) -> None:
    history.create_session("chat")
    watch = asynchistory.Watch(history.target, "chat", None, None)
    ours = history.watch("chat")
    for name in vars(watch):
        assert name.startswith("_") or hasattr(ours, name) or hasattr(ours.target, name)


# -- what needs no event loop


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryManager]:
    with HistoryManager(tmp_path / "history.db") as manager:
        yield manager


@pytest.fixture
def no_hop(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, the bridge refuses."""

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a hop")

    return lambda: monkeypatch.setattr(loop.Bridge, "call", refuse)


def test_a_cached_tail_takes_no_hop(tmp_path: Path, no_hop: Callable[[], None]) -> None:
    manager = open_history(tmp_path / "history.db", level="cached")
    with HistoryManager(manager) as history:
        history.append("chat", *[Message.of("user", str(number)) for number in range(30)])
        assert history.peek("chat", 5) is None
        records = history.last("chat", 5)
        hits = history.get_cache_stats().hits
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Bridge, "call", lambda *_args, **_options: 1 / 0)
            assert history.last("chat", 5) == records == history.peek("chat", 5)
            assert len(history.last("chat", 30)) == len(history.last("chat", 1000)) == 30
            assert history.last("chat", 0) == ()
            assert history.get_cache_stats().hits == hits + 5
            for level in ("validated", "fresh"):
                with pytest.raises(ZeroDivisionError):
                    history.last("chat", 5, level=level)  # type: ignore[arg-type]
        history.record_message("chat", "user", "newest")
        assert history.last("chat", 1)[0].text == "newest"  # type: ignore[union-attr]
        with pytest.raises(asynchistory.InvalidSessionIdError):
            history.last(3)  # type: ignore[arg-type]
        with pytest.raises(asynchistory.InvalidQueryError):
            history.last("chat", -1)


def test_an_instance_that_is_there_takes_no_hop(no_hop: Callable[[], None]) -> None:
    factory = LLMFactory(asynchistory.LLMFactory())
    instances = [
        factory.get("scripted", "m"),
        factory.get("scripted", "m", temperature=0),
        factory.get("scripted", "m", base_url="https://example.com/", seed=1, timeout=5),
    ]
    no_hop()
    assert instances == [
        factory.get("scripted", "m"),
        factory.get("scripted", "m", temperature=0),
        factory.get("scripted", "m", base_url="https://example.com/", seed=1, timeout=5),
    ]
    assert factory.get_cache_stats().creations == 3
    with pytest.raises(AssertionError, match="a hop"):
        factory.get("scripted", "other")


# -- lifetimes


class Counted(AsyncHistoryManager):
    """One that knows how often it is open."""

    opened = 0

    async def __aenter__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        await super().__aenter__()
        self.opened += 1
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self.opened -= 1
        await super().__aexit__(*exc)


def test_nothing_opens_before_the_first_use(tmp_path: Path) -> None:
    history = HistoryManager(tmp_path / "history.db")
    assert not (tmp_path / "history.db").exists()
    assert history.count().sessions == 0
    assert (tmp_path / "history.db").exists()
    history.close()
    history.close()
    assert history.count().sessions == 0  # opens again
    history.close()


def test_one_opening_for_all_threads_and_copies() -> None:
    manager = Counted(MemoryStorage())
    history = HistoryManager(manager)
    barrier = threading.Barrier(8)

    def use(_number: int) -> int:
        barrier.wait()
        return history.with_timeout(20).count().sessions

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {0}
    assert manager.opened == 1
    with HistoryManager(manager) as other:
        other.count()
        assert manager.opened == 2
    history.count()
    assert manager.opened == 1
    history.close()
    assert manager.opened == 0


def test_a_conversation_leaves_nothing_open() -> None:
    manager = Counted(MemoryStorage())
    with Conversation(manager, provider="scripted", model="echo") as conversation:
        assert conversation.ask("Hello!").text
        assert conversation.llm.key.model == "echo"
    assert manager.opened == 0
    history = HistoryManager(manager)
    with Conversation(history, provider="scripted", model="echo") as conversation:
        pass
    assert history.get_session(conversation.session_id).seq == 0
    assert manager.opened == 1
    history.close()


def test_a_twin_with_another_timeout(history: HistoryManager) -> None:
    quick = history.with_timeout(0.01)
    assert (quick.timeout, history.timeout, quick.target) == (0.01, None, history.target)
    history.create_session("chat")
    with quick.watch("chat") as records, pytest.raises(TimeoutError, match=r"0\.01 s"):
        next(records)
    with history.watch("chat") as records:
        history.record_message("chat", "user", "x")
        assert next(records).seq == 1


def test_a_subclass_s_own_methods_are_called() -> None:
    class Shouting(AsyncHistoryManager):
        async def record_message(self, session_id: str, role: Any, content: Any, **o: Any) -> Any:
            return await super().record_message(session_id, role, content.upper(), **o)

    with HistoryManager(Shouting(MemoryStorage())) as history:
        history.record_message("chat", "user", "hello")
        assert [record.text for record in history.last("chat")] == ["HELLO"]  # type: ignore[union-attr]


def test_one_history_for_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCHISTORY_URL", "memory://")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: get_history(), range(100)))
    assert {id(history) for history in found} == {id(get_history())}


# -- streams


def test_streams_outside_their_block(history: HistoryManager) -> None:
    history.append("chat", Message.of("user", "x"))
    records = history.watch("chat", after_seq=0)
    with pytest.raises(NotOpenError):
        next(records)
    with records:
        assert next(records).seq == 1
    with pytest.raises(NotOpenError):
        next(records)
    with pytest.raises(SessionNotFoundError):
        history.watch("none").__enter__()
    for missing in (history.watch("none"), history.export("none")):
        with pytest.raises(SessionNotFoundError):
            list(missing)


def test_the_items_before_an_error_arrive_and_the_error_once() -> None:
    class Breaking:
        async def __aenter__(self) -> Any:
            return self.items()

        async def __aexit__(self, *exc: object) -> None:
            pass

        async def items(self) -> Any:
            yield 1
            yield 2
            raise OSError("no more")

    items = iter(Stream[Any, int](Breaking()))
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(OSError, match="no more"):
        next(items)
    assert list(items) == []


# -- many threads, and async code at the same time


def test_eight_threads_of_a_thousand_mixed_calls(history: HistoryManager) -> None:
    factory = LLMFactory(asynchistory.LLMFactory())
    cache = SyncCacheAdapter(EnhancedCacheManager())

    def mixed(thread: int) -> int:
        session = f"chat-{thread % 4}"
        history.create_session(session, exist_ok=True)
        for number in range(125):
            seq = history.record_message(session, "user", f"{thread} {number}").seq
            assert seq is not None
            assert history.last(session, 1)[0].seq >= seq
            assert history.query_history(HistoryQuery(session, limit=2)).records
            cache.set(f"{thread}", number)
            assert cache.get(f"{thread}") == number
            assert factory.get("scripted", "m", temperature=number % 3) is not None
            assert safe_async_call(anyio_answer()) == 42
            with pytest.raises(SessionNotFoundError):
                history.get_session("missing")
        return 125 * 8

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(mixed, range(8))) == 8000
    assert history.count().records == 1000
    assert factory.get_cache_stats().creations == 3


async def anyio_answer() -> int:
    await anyio.lowlevel.checkpoint()
    return 42


@pytest.mark.anyio
async def test_async_and_sync_code_at_once(tmp_path: Path) -> None:
    """Each sees what the other has written, as soon as it has."""
    async with open_history(tmp_path / "history.db") as manager:
        history = HistoryManager(manager)
        await manager.create_session("chat")
        # What is said to the other side, and heard by it.
        to_sync, heard = anyio.create_memory_object_stream[int](1)
        to_async, answers = anyio.create_memory_object_stream[int](1)

        def sync_side() -> None:
            for _ in range(50):
                seq = anyio.from_thread.run(heard.receive)
                assert history.last("chat", 1)[0].seq == seq
                written = history.record_message("chat", "assistant", "from sync code").seq
                anyio.from_thread.run(to_async.send, written)

        with heard, to_sync, to_async, answers:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, sync_side)
                for _ in range(50):
                    seq = (await manager.record_message("chat", "user", "from async code")).seq
                    await to_sync.send(seq)
                    written = await answers.receive()
                    assert [r.seq for r in await manager.last("chat", 2)] == [seq, written]
        await anyio.to_thread.run_sync(history.close)


def test_async_code_on_the_bridge_and_sync_code_in_threads(history: HistoryManager) -> None:
    manager = history.target
    history.create_session("chat")

    async def write() -> None:
        for _ in range(100):
            await manager.record_message("chat", "user", "async")

    with ThreadPoolExecutor(4) as pool, history.watch("chat") as records:
        jobs = [pool.submit(safe_async_call, write()) for _ in range(2)]
        jobs += [
            pool.submit(lambda: [history.record_message("chat", "user", "x") for _ in range(100)])  # type: ignore[misc]
            for _ in range(2)
        ]
        assert [next(records).seq for _ in range(400)] == list(range(1, 401))
        assert all(job.result() is None or job.result() for job in jobs)


# -- what calls leave behind


def test_a_failing_call_leaves_no_cyclic_garbage(history: HistoryManager) -> None:
    def fail() -> None:
        for _ in range(50):
            with pytest.raises(SessionNotFoundError):
                history.get_session("missing")
            with pytest.raises(ZeroDivisionError):
                safe_async_call(divide())

    async def divide() -> None:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    fail()
    gc.collect()
    gc.disable()
    try:
        fail()
        assert gc.collect() < 50
    finally:
        gc.enable()


def test_a_closed_manager_and_a_left_stream_are_let_go_of(tmp_path: Path) -> None:
    history = HistoryManager(tmp_path / "history.db")
    history.create_session("chat")
    records = history.watch("chat", after_seq=0)
    with records:
        pass
    history.close()
    kept = [weakref.ref(history), weakref.ref(history.target), weakref.ref(records)]
    del history, records
    gc.collect()
    assert [reference() for reference in kept] == [None, None, None]


def test_calls_leave_no_memory_behind() -> None:
    tracemalloc.start()
    try:
        for _ in range(500):
            safe_async_call(anyio_answer())
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            safe_async_call(anyio_answer())
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_a_backend_cannot_change_under_way() -> None:
    safe_async_call(anyio_answer())
    other: Any = "trio" if bridge.backend == "asyncio" else "asyncio"
    with pytest.raises(asynchistory.ConfigurationError, match="before its first use"):
        configure(backend=other)
    configure(backend=bridge.backend)
