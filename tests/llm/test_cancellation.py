"""A turn that is cancelled, at each of its awaits in turn."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from asynchistory import (
    AsyncHistoryManager,
    Conversation,
    DoneEvent,
    HistoryQuery,
    LLMFactory,
    MemoryStorage,
    Message,
    ScriptedClient,
    SQLiteStorage,
    Storage,
    ToolCallPart,
    register_provider,
)
from asynchistory.pairing import pair_tools
from asynchistory.testing import CallTool, Fault, LoopbackLLM, Reply

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

GO, NEXT = "Go!", "And now?"
#: So many awaits a turn has at most; a walk that gets there does not end.
MOST = 2000


# -- what is counted: each time any task of the turn waits


class Steps:
    """Counts the suspensions of all tasks, and cancels at the n-th."""

    def __init__(self, at: int, cancel: Callable[[], object]) -> None:
        self.at = at
        self.count = 0
        self._cancel = cancel

    @property
    def reached(self) -> bool:
        return self.count >= self.at

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self._cancel()


@types.coroutine
def watched(coroutine: Coroutine[Any, Any, Any], steps: Steps) -> Generator[Any, Any, Any]:
    """Runs a coroutine; reports each time it waits."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        error = None
        steps.step()
        try:
            value = yield waits_for
        except BaseException as thrown:
            error = thrown


class _Instrument(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps.step()


async def counted(steps: Steps, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work``, and count the steps of its tasks."""
    if "trio" in sys.modules and trio.lowlevel.in_trio_task():
        instrument = _Instrument(steps)
        trio.lowlevel.add_instrument(instrument)
        try:
            await work()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        async def task() -> Any:
            return await watched(coroutine, steps)

        return asyncio.Task(task(), loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        await watched(work(), steps)
    finally:
        loop.set_task_factory(None)


# -- what is cancelled: a conversation with two tools in one turn


async def wait_a_little(city: str) -> str:
    """An async tool."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    return f"snow in {city}"


def compute(number: int) -> int:
    """A tool that runs in a thread."""
    return 2 * number


CALLS = {"wait_a_little": {"city": "Oslo"}, "compute": {"number": 21}}


def answer(messages: Sequence[Message]) -> Message | str:
    last = messages[-1]
    # What a provider would refuse: a call without its result behind it.
    pairs = pair_tools(messages)
    assert not pairs.unanswered
    assert not pairs.orphans
    if last.role == "tool":
        return "It is done now."
    if last.text == NEXT:
        return "fine"
    parts = [ToolCallPart(id=f"{name}-{len(messages)}", name=name, arguments=arguments)
             for name, arguments in CALLS.items()]  # fmt: skip
    return Message(role="assistant", parts=tuple(parts))


def reply(request: dict[str, Any]) -> Reply:
    last = request["messages"][-1]
    # Anthropic has the results in the user's message.
    if last["role"] == "tool" or isinstance(last["content"], list):
        return Reply("It is done now.")
    if last["content"] == NEXT:
        return Reply("fine")
    calls = [CallTool(name, arguments) for name, arguments in CALLS.items()]
    return Reply("Let me see.", tool_calls=calls)


class Reluctant:
    """Answers at once, but each request only when it comes for the second time."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, request: dict[str, Any]) -> Reply | Fault:
        self._count += 1
        if self._count % 2:
            return Fault.rate_limited()
        return Reply("fine" if request["messages"][-1]["content"] == NEXT else "It is done now.")


@asynccontextmanager
async def talking(
    history: AsyncHistoryManager,
    session_id: str,
    server: LoopbackLLM | None,
    factory: LLMFactory,
    provider: str,
) -> AsyncIterator[Conversation]:
    async with Conversation(
        history, provider=provider if server else "walk", model="m",
        base_url=server.url if server else None, api_key="sk-any", factory=factory,
        session_id=session_id, prompt="Be brief.", tools=[wait_a_little, compute],
    ) as conversation:  # fmt: skip
        yield conversation


async def stored(history: AsyncHistoryManager, session_id: str) -> list[Any]:
    return list(await history.query_history(HistoryQuery(session_id, limit=10_000)))


def check_batches(records: Sequence[Any]) -> None:
    """No batch is half there, whatever was cancelled."""
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    names = [record.record_type for record in records]
    for place, record in enumerate(records):
        behind = names[place + 1 : place + 3]
        if record.record_type == "message" and record.role == "assistant":
            assert behind == ["llm_response", "token_usage"]
        interrupted = "interrupted before its end"
        if record.record_type == "message" and record.role == "tool":
            [result] = record.tool_results
            assert behind[:1] == ["tool_call"] or result.result == interrupted
    pairs = pair_tools(records)
    assert not pairs.orphans


async def nothing_is_left(before: set[int]) -> None:
    """No task is left, and no cancellation either."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    left = tasks_since(before)
    with anyio.move_on_after(10):
        # What looks after a wait on trio may outlive it by some milliseconds.
        while any(task.name.endswith("_look_now_and_then") for task in left):
            await anyio.lowlevel.checkpoint()
            left = tasks_since(before)
    assert not left, left


def tasks_since(before: set[int]) -> list[anyio.TaskInfo]:
    return [task for task in anyio.get_running_tasks() if task.id not in before]


async def check_after(
    history: AsyncHistoryManager, conversation: Conversation, before: set[int]
) -> None:
    await nothing_is_left(before)
    check_batches(await stored(history, conversation.session_id))
    assert (await conversation.ask(NEXT)).text == "fine"
    records = await stored(history, conversation.session_id)
    check_batches(records)
    pairs = pair_tools(records)
    assert not pairs.unanswered
    calls = [
        call for record in records if isinstance(record, Message) for call in record.tool_calls
    ]
    assert len(pairs.pairs) == len(calls)
    prompts = [r for r in records if isinstance(r, Message) and r.role == "system"]
    assert len(prompts) == 1
    await nothing_is_left(before)


async def walk(
    storage: Storage,
    server: LoopbackLLM | None,
    cancelled_turn: Callable[..., Any],
    provider: str = "openai",
) -> int:
    """Cancel a turn at its first await, one at its second ..., until one is not cancelled."""
    register_provider("walk", lambda config: ScriptedClient(config.key, answer))
    factory = LLMFactory()
    async with AsyncHistoryManager(storage) as history:
        # Once without: what is opened with the first turn is not part of the others.
        async with talking(history, "first", server, factory, provider) as conversation:
            assert (await conversation.ask(GO)).text == "It is done now."
        for number in range(1, MOST):
            name = f"chat-{number}"
            async with talking(history, name, server, factory, provider) as conversation:
                before = {task.id for task in anyio.get_running_tasks()}
                events: list[Any] = []

                async def turn(
                    conversation: Conversation = conversation, events: list[Any] = events
                ) -> None:
                    async with conversation.send(GO) as stream:
                        async for event in stream:
                            events.append(event)

                reached = await cancelled_turn(number, turn)
                if not reached:
                    assert isinstance(events[-1], DoneEvent)
                await check_after(history, conversation, before)
                if not reached:
                    return number
    raise AssertionError("the walk does not end")


async def by_scope(number: int, turn: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    with anyio.CancelScope() as scope:
        steps = Steps(number, scope.cancel)
        await counted(steps, turn)
    return steps.reached


async def by_task(number: int, turn: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """``task.cancel()``, as asyncio's own applications do."""
    steps: Steps

    async def main() -> None:
        nonlocal steps
        task = asyncio.current_task()
        assert task is not None
        steps = Steps(number, task.cancel)
        await counted(steps, turn)

    task = asyncio.get_running_loop().create_task(main())
    try:
        await task
    except asyncio.CancelledError:
        own = asyncio.current_task()
        assert own is not None
        assert not own.cancelling()
    assert task.done()
    return steps.reached


async def by_timeout(number: int, turn: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """``asyncio.timeout()``, whose deadline is moved to the past at the n-th await."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:
            steps = Steps(number, lambda: scope.reschedule(loop.time() - 1))
            await counted(steps, turn)
    except TimeoutError:
        assert steps.reached
    return steps.reached


def make_storage(kind: str, folder: Path) -> Storage:
    if kind == "memory":
        return MemoryStorage()
    # Relaxed: the awaits are the same, and the walk does not wait for the disk each time.
    return SQLiteStorage(folder / "history.db", durability="relaxed")


STORES = pytest.mark.parametrize("store", ["memory", "sqlite"])


@STORES
@pytest.mark.anyio
async def test_a_turn_cancelled_at_each_of_its_awaits(store: str, tmp_path: Path) -> None:
    # A tool in a thread, its two tasks and the turn's own wait some times at the least.
    assert await walk(make_storage(store, tmp_path), None, by_scope) > 10


@pytest.mark.parametrize(("store", "provider"), [("memory", "openai"), ("sqlite", "anthropic")])
@pytest.mark.anyio
async def test_a_turn_over_http_cancelled_at_each_of_its_awaits(
    store: str, provider: str, tmp_path: Path
) -> None:
    with LoopbackLLM(reply) as server:
        assert await walk(make_storage(store, tmp_path), server, by_scope, provider) > 30


@STORES
@pytest.mark.parametrize("cancelled_turn", [by_task, by_timeout])
def test_a_turn_cancelled_in_asyncio_s_own_ways(
    store: str, tmp_path: Path, cancelled_turn: Callable[..., Any]
) -> None:
    assert asyncio.run(walk(make_storage(store, tmp_path), None, cancelled_turn)) > 10


@pytest.mark.anyio
async def test_a_turn_that_asks_twice_each_time_cancelled_at_each_of_its_awaits() -> None:
    with LoopbackLLM(Reluctant()) as server:
        assert await walk(MemoryStorage(), server, by_scope, "anthropic") > 25


@pytest.mark.parametrize("cancelled_turn", [by_task, by_timeout])
def test_a_turn_over_http_cancelled_in_asyncio_s_own_ways(
    tmp_path: Path, cancelled_turn: Callable[..., Any]
) -> None:
    with LoopbackLLM(reply) as server:
        assert asyncio.run(walk(MemoryStorage(), server, cancelled_turn)) > 30
