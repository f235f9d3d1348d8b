"""SDKs with our HTTP client serve many loops. With their own they do not, in the same test."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from asynchistory.llm.http import run_local_transport
from asynchistory.runs import current_run
from asynchistory.testing import LoopbackLLM, Reply
from tests.faults.children import Child
from tests.llm.many_loops import ManyLoops
from tests.llm.raw_server import RawServer, anthropic, openai
from tests.llm.sdks import LIBRARIES, SDKS, openai_sdk


def child(sdk: str, url: str, library: str, calls: str) -> None:
    # LangChain is made for asyncio alone.
    kinds = "asyncio" if sdk == "langchain" else "asyncio trio"
    loops = ManyLoops(SDKS[sdk](url, library), kinds)
    loops.one_after_another(6, int(calls))
    loops.at_once(4, int(calls))
    loops.tell()


@pytest.fixture(params=["openai", "anthropic"])
def sdk(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def server(sdk: str) -> Iterator[RawServer]:
    with RawServer(openai if sdk == "openai" else anthropic) as server:
        yield server


def outcome(sdk: str, url: str, library: str, calls: int) -> dict[str, Any]:
    process = Child("tests.llm.test_sdks:child", sdk, url, library, calls)
    code, complaints = process.end()
    assert process.lines, (code, complaints)
    found: dict[str, Any] = json.loads(process.lines[-1])
    return found


def test_an_sdk_serves_many_loops_with_our_client_and_not_with_its_own(
    sdk: str, server: RawServer
) -> None:
    ours = outcome(sdk, server.url, LIBRARIES[sdk], 20)
    assert ours == {"calls": 200, "answered": 200, "wrong": 0, "errors": 0, "of": {}}
    assert len(server.requests) == 200
    assert server.has(0)
    assert server.connections == 10

    own = outcome(sdk, server.url, "", 1)
    sent = len(server.requests) - 200
    assert own["errors"] or sent > own["calls"], (own, sent)


def test_openai_takes_our_client_of_httpx2_too() -> None:
    with RawServer(openai) as server:
        ours = outcome("openai", server.url, "httpx2", 5)
        assert ours == {"calls": 50, "answered": 50, "wrong": 0, "errors": 0, "of": {}}
        assert (len(server.requests), server.connections) == (50, 10)


def test_langchain_serves_many_loops_with_our_client() -> None:
    pytest.importorskip("langchain_openai")
    with RawServer(openai) as server:
        ours = outcome("langchain", server.url, LIBRARIES["langchain"], 5)
        assert ours == {"calls": 50, "answered": 50, "wrong": 0, "errors": 0, "of": {}}
        assert (len(server.requests), server.connections) == (50, 10)


@pytest.mark.anyio
async def test_an_sdk_that_is_closed_or_dropped_closes_no_connection_of_others() -> None:
    with RawServer(openai) as server:
        first, second = (openai_sdk(server.url, "httpx") for _ in range(2))

        async def ask(client: Any) -> None:
            messages = [{"role": "user", "content": "Hi"}]
            await client.chat.completions.create(model="m", messages=messages)

        async with first:
            await ask(first)
        await ask(second)
        del second
        gc.collect()
        await anyio.wait_all_tasks_blocked()
        await ask(openai_sdk(server.url, "httpx"))
        assert (len(server.requests), server.connections) == (3, 1)


@pytest.mark.parametrize("leave", ["close", "break"])
@pytest.mark.anyio
async def test_a_stream_of_an_sdk_that_is_left_frees_its_connection(leave: str) -> None:
    with LoopbackLLM(Reply("a long story in many pieces")) as server:
        client = openai_sdk(server.url, "httpx")
        messages = [{"role": "user", "content": "Hi"}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        async with stream:
            pieces = aiter(stream)
            await anext(pieces)
            if leave == "close":
                await stream.close()
        await pieces.aclose()
        assert not busy_connections()
        whole = await client.chat.completions.create(model="m", messages=messages)
        assert whole.choices[0].message.content == "a long story in many pieces"


def busy_connections() -> int:
    """Connections of the running loop that wait for no request."""
    transport, _ = run_local_transport("httpx").pools._pools[current_run()]
    pool: Any = transport._pool
    return sum(not connection.is_idle() for connection in pool.connections)
