"""compat: the situations that a synchronous call can be made in."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from asynchistory import (
    HistoryQuery,
    LoopThreadError,
    SessionNotFoundError,
    open_history,
)
from asynchistory_compat import (
    BlockingInLoopWarning,
    HistoryManager,
    bridge,
    configure,
    safe_async_call as call,
)

LOOPS = pytest.mark.parametrize(
    "run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)], ids=["asyncio", "trio"]
)


@pytest.fixture
def allow() -> Iterator[None]:
    before = bridge.loop_policy
    configure(loop_policy="allow")
    yield
    configure(loop_policy=before)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryManager]:
    with HistoryManager(tmp_path / "history.db") as manager:
        yield manager


# -- story A: a synchronous query while a loop is running


@LOOPS
@pytest.mark.usefixtures("allow")
def test_query_history_inside_a_running_loop(run: Callable[..., Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with open_history(tmp_path / "history.db") as manager:
            await manager.record_message("chat", "user", "from async code")
            legacy = HistoryManager(manager)
            first = legacy.query_history(HistoryQuery("chat"))
            hits = manager.get_cache_stats().hits
            again = legacy.query_history(HistoryQuery("chat"))
            assert manager.get_cache_stats().hits == hits + 1
            assert [record.text for record in first] == ["from async code"]
            assert again.records == (await manager.last("chat"))
            legacy.record_message("chat", "assistant", "from sync code")
            assert [record.seq for record in await manager.last("chat")] == [1, 2]
            legacy.close()
            await manager.last("chat")  # closing the twin leaves its manager open

    run(main())


@pytest.mark.anyio
@pytest.mark.usefixtures("allow")
async def test_query_history_from_an_async_test(tmp_path: Path) -> None:
    async with open_history(tmp_path / "history.db") as manager:
        await manager.record_message("chat", "user", "hello")
        assert len(HistoryManager(manager).query_history(HistoryQuery("chat"))) == 1


@LOOPS
def test_a_call_in_a_running_loop_warns_once_per_call_site(
    run: Callable[..., Any], history: HistoryManager
) -> None:
    history.record_message("chat", "user", "hello")

    async def main() -> None:
        for _ in range(3):
            history.last("chat")
        history.watch("chat").__enter__().__exit__()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # Python's own: once for each place
        run(main())
    assert len({warning.lineno for warning in caught}) == len(caught) == 2
    assert {warning.filename for warning in caught} == {__file__}
    assert {warning.category for warning in caught} == {BlockingInLoopWarning}


@LOOPS
def test_a_call_in_a_running_loop_can_be_refused(
    run: Callable[..., Any], history: HistoryManager
) -> None:
    async def main() -> None:
        with pytest.raises(LoopThreadError, match="await"):
            history.last("chat")

    before = bridge.loop_policy
    configure(loop_policy="error")
    try:
        run(main())
    finally:
        configure(loop_policy=before)


# -- threads


def test_ten_threads_share_one_manager(history: HistoryManager) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            history.record_message("chat", "user", f"{number}/{turn}")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(10)))
    assert [record.seq for record in history.last("chat", 1000)] == list(range(1, 201))


@pytest.mark.anyio
async def test_a_worker_thread_calls_its_host_loop(history: HistoryManager) -> None:
    host = threading.current_thread()

    async def where() -> threading.Thread:
        return threading.current_thread()

    assert await anyio.to_thread.run_sync(lambda: bridge.call(where)) is host
    await anyio.to_thread.run_sync(lambda: history.record_message("chat", "user", "hello"))
    assert len(await anyio.to_thread.run_sync(lambda: history.last("chat"))) == 1


def test_a_call_in_the_bridge_s_own_loop_is_refused(history: HistoryManager) -> None:
    async def inside() -> None:
        history.last("chat")

    with pytest.raises(LoopThreadError, match="wait for itself"):
        call(inside())


# -- outcomes


def test_errors_reach_the_caller_with_both_sides_of_the_traceback(
    history: HistoryManager,
) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        history.last("missing")
    names = [entry.name for entry in caught.traceback]
    assert "test_errors_reach_the_caller_with_both_sides_of_the_traceback" in names
    assert "last" in names


def test_a_timeout_cancels_the_coroutine_and_waits_for_its_clean_up() -> None:
    cleaned = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        call(forever(), timeout=0.01)
    assert cleaned


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_reach_their_caller_alone(error: type[BaseException]) -> None:
    async def leave() -> None:
        raise error

    with pytest.raises(error):
        call(leave())

    async def fine() -> str:
        return "fine"

    assert call(fine()) == "fine"


def test_no_new_loop_is_made_per_call() -> None:
    async def loop() -> object:
        return asyncio.get_running_loop()

    assert call(loop()) is call(loop())
