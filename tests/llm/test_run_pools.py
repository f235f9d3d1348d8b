"""The connections of each run of a loop: its own, used again, and closed when it ends."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import trio

from asynchistory import LLMFactory
from asynchistory.errors import NoEventLoopError
from asynchistory.llm.http import run_local_transport
from tests.llm.certificates import tls as tls
from tests.llm.raw_server import RawServer, openai

pytest_plugins = "pytester"
Main: TypeAlias = Callable[[], Awaitable[Any]]
Pools: TypeAlias = Callable[..., int]
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
LIBRARIES = pytest.mark.parametrize("library", ["httpx", "httpx2"])


def runner(main: Main) -> None:
    with asyncio.Runner() as runs:
        runs.run(main())
        runs.run(main())  # the same loop


def uvloop(main: Main) -> None:
    pytest.importorskip("uvloop").run(main())


RUNS: dict[str, Callable[[Main], Any]] = {
    "asyncio.run": lambda main: asyncio.run(main()),
    "asyncio.Runner": runner,
    "anyio.run asyncio": partial(anyio.run, backend="asyncio"),
    "anyio.run trio": partial(anyio.run, backend="trio"),
    "trio.run": trio.run,
    "uvloop.run": uvloop,
}


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


def held(library: str) -> int:
    return len(run_local_transport(library).pools)


@pytest.fixture
def pools() -> Pools:
    """How many runs have a pool, beyond those of loops that outlive their tests, as compat's."""
    before = {library: held(library) for library in ("httpx", "httpx2") if find_spec(library)}
    return lambda library="httpx": held(library) - before[library]


async def ask(client: httpx.AsyncClient, server: RawServer, times: int = 2) -> None:
    for _ in range(times):
        answer = await client.post(server.url, json=QUESTION)
        assert answer.json()["choices"][0]["message"]["content"] == "Hi"


@LIBRARIES
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_run_uses_its_connection_again_and_closes_it_at_its_end(
    run: Callable[[Main], Any], library: Any, server: RawServer, pools: Pools
) -> None:
    client = LLMFactory().http_client(library)
    for number in (1, 2):
        run(partial(ask, client, server))
        assert server.has(0)
        assert server.connections == number
        assert pools(library) == 0


@pytest.mark.parametrize(
    ("plugin", "mark"), [("anyio", "pytest.mark.anyio"), ("pytest_trio", "pytest.mark.trio")]
)
def test_the_pytest_plugins_end_runs_too(
    plugin: str, mark: str, server: RawServer, pools: Pools, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from asynchistory import LLMFactory

        client = LLMFactory().http_client()

        @{mark}
        async def test_one():
            assert (await client.post({server.url!r}, json={QUESTION})).is_success

        @{mark}
        async def test_two():
            assert (await client.post({server.url!r}, json={QUESTION})).is_success
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-W", "error")
    number = 4 if plugin == "anyio" else 2  # AnyIO's own default: asyncio and trio
    result.assert_outcomes(passed=number)
    assert server.has(0)
    assert len(server.requests) == number
    assert pools() == 0


def test_loops_that_are_alive_at_once_have_their_own(server: RawServer, pools: Pools) -> None:
    client = LLMFactory().http_client()
    barrier = threading.Barrier(4)

    async def main() -> None:
        await ask(client, server)
        barrier.wait(30)
        assert pools() == 4
        barrier.wait(30)

    runs = [RUNS["asyncio.run"], RUNS["trio.run"]] * 2
    threads = [threading.Thread(target=run, args=(main,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.requests), server.connections) == (8, 4)
    assert server.has(0)
    assert pools() == 0


def test_a_loop_that_was_only_closed_is_let_go_of_by_the_next(
    server: RawServer, pools: Pools
) -> None:
    client = LLMFactory().http_client()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(client, server))
    loop.close()
    del loop
    assert pools() == 1
    with warnings.catch_warnings(record=True, action="always") as warned:
        asyncio.run(ask(client, server))
        gc.collect()
    assert any("unclosed transport" in str(warning.message) for warning in warned)
    assert server.has(0)
    assert len(server.requests) == 4
    assert pools() == 0


# httpx runs a generator of its own for each request, which asyncio says comes late.
@pytest.mark.filterwarnings("ignore:asynchronous generator:ResourceWarning")
def test_a_request_behind_the_end_of_its_run_is_answered_and_leaves_nothing(
    server: RawServer, pools: Pools
) -> None:
    client = LLMFactory().http_client()

    async def goodbye() -> Any:
        try:
            yield
        finally:
            while pools():  # its connections are being closed
                await anyio.lowlevel.checkpoint()
            await ask(client, server)

    async def main() -> Any:
        await ask(client, server)
        generator = goodbye()
        await anext(generator)
        return generator  # asyncio.run closes it

    asyncio.run(main())
    assert server.has(0)
    assert len(server.requests) == 4


def test_without_a_loop_it_says_so() -> None:
    request = httpx.Request("GET", "http://127.0.0.1:1")
    coroutine = run_local_transport("httpx").handle_async_request(request)
    with pytest.raises(NoEventLoopError):
        coroutine.send(None)


@pytest.mark.anyio
async def test_closing_a_client_leaves_the_connections_of_others(server: RawServer) -> None:
    one, other = LLMFactory().http_client(), LLMFactory().http_client()
    await ask(one, server)
    await one.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await ask(one, server)
    await ask(other, server)
    assert server.connections == 1


@pytest.mark.anyio
async def test_a_connection_that_the_server_closed_while_idle_is_not_used(
    server: RawServer,
) -> None:
    client = LLMFactory().http_client()
    server.answer = lambda request: {"last": True}
    await client.post(server.url, json=QUESTION)
    # The handler's next read ends, and with it the connection, before anybody asks again.
    server.close_all()
    assert server.has(0)
    assert (await client.post(server.url, json=QUESTION)).is_success
    assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.anyio
async def test_a_request_that_breaks_is_not_sent_again(server: RawServer) -> None:
    client = LLMFactory().http_client()
    await ask(client, server)
    server.answer = lambda request: None
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(server.url, json=QUESTION)
    assert len(server.requests) == 3


@pytest.mark.anyio
async def test_a_cancelled_request_takes_its_connection_with_it(server: RawServer) -> None:
    client = LLMFactory().http_client()
    await ask(client, server)
    asked, go_on = threading.Event(), threading.Event()

    def answer(request: Any) -> Any:
        asked.set()
        go_on.wait(30)
        return {"too": "late"}

    server.answer = answer
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(client.post, server.url, json=QUESTION))
        await anyio.to_thread.run_sync(asked.wait, 30)
        tasks.cancel_scope.cancel()
    go_on.set()
    assert server.has(0)
    server.answer = lambda request: {"own": True}
    assert (await client.post(server.url, json=QUESTION)).json() == {"own": True}
    assert server.connections == 2


@pytest.mark.anyio
async def test_a_request_cancelled_at_any_turn_of_the_loop_leaves_no_connection(
    tls: ssl.SSLContext,
) -> None:
    """In the midst of connecting, of the handshake, of sending, or of waiting."""
    client = LLMFactory().http_client()
    go_on = threading.Event()

    def answer(request: Any) -> Any:
        go_on.wait(30)
        return openai(request)

    with RawServer(answer, tls) as server:
        for turns in range(40):
            go_on.clear()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(ask, client, server))
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            go_on.set()
            assert server.has(0)
        await ask(client, server)
        assert server.open == 1
