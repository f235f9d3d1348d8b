"""Many conversations at once on each loop: nothing of them is left."""

from __future__ import annotations

import gc
import os
import sys
import threading

import anyio
import pytest

from asynchistory import AsyncHistoryManager, LLMFactory, TextDelta, open_history
from asynchistory.testing import CallTool, LoopbackLLM, Reply
from tests.llm.talking import talk_to, weather

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

NUMBER, AT_ONCE = 150, 50


def answer(request: dict[str, object]) -> Reply:
    """A tool's result is answered, and whoever asks is asked back."""
    messages = request["messages"]
    assert isinstance(messages, list)
    last = messages[-1]
    if last["role"] == "tool" or isinstance(last["content"], list):
        return Reply("Snow.")
    return Reply("Let me see.", tool_calls=[CallTool("weather", {"city": "Oslo"})])


async def converse(
    server: LoopbackLLM, history: AsyncHistoryManager, factory: LLMFactory, number: int
) -> None:
    async with talk_to(
        server,
        history,
        weather,
        provider="anthropic" if number % 2 else "openai",
        session_id=f"chat-{number}",
        factory=factory,
    ) as conversation:
        if number % 5 == 0:  # left in the middle
            async with conversation.send("How is it?") as events:
                assert isinstance(await anext(events), TextDelta)
        assert (await conversation.ask("How is it?")).text == "Snow."


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_many_conversations_leave_nothing(backend: str) -> None:
    async def main() -> None:
        factory, tasks = LLMFactory(), len(anyio.get_running_tasks())
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def one(number: int) -> None:
            async with limiter:
                await converse(server, history, factory, number)

        async with open_history("memory://") as history:
            async with anyio.create_task_group() as group:
                for number in range(NUMBER):
                    group.start_soon(one, number)
            assert (await history.count()).sessions == NUMBER
            await anyio.wait_all_tasks_blocked()
            assert len(anyio.get_running_tasks()) == tasks
        assert factory.get_cache_stats().creations == 2

    with LoopbackLLM(answer) as server:
        pass  # what the first one opens in the process stays
    files, threads = open_files(), threading.active_count()
    with LoopbackLLM(answer) as server:
        anyio.run(main, backend=backend)
        assert server.count >= 2 * NUMBER
    assert open_files() <= files
    assert threading.active_count() <= threads
