"""The connections of OpenAIClient: freed, used again, and each loop's own."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import trio

from asynchistory import (
    ClientCreationError,
    LLMResponseError,
    TextDelta,
)
from asynchistory.testing import Gate, LoopbackLLM, Reply
from tests.faults.leftovers import open_sockets
from tests.llm.asking import BOTH_WAYS, HI, ask, connect

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")


@asynccontextmanager
async def raw_server(*pieces: bytes) -> AsyncIterator[str]:
    """A server that answers every request with these bytes and hangs up."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head, body = b"", b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            head, _, body = head.partition(b"\r\n\r\n")
            [length] = [
                line for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")
            ]
            while len(body) < int(length.partition(b":")[2]):
                body += await stream.receive()
            for piece in pieces:
                await stream.send(piece)

    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listeners, anyio.create_task_group() as group:
        group.start_soon(listeners.serve, serve)
        port = listeners.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}/v1"
        group.cancel_scope.cancel()


# -- connections


@pytest.mark.anyio
async def test_a_stream_that_is_left_early_frees_its_connection() -> None:
    gate = Gate()
    with LoopbackLLM([Reply("Never heard", gate=gate, gate_after=2), Reply("ok")]) as server:
        client = await connect(server.url)
        with anyio.fail_after(30):
            async with client.stream(HI) as events:
                assert isinstance(await anext(events), TextDelta)
            await server.requests[0].ended.wait_async()
            assert not server.requests[0].answered
            assert (await ask(client, True))[0].message.text == "ok"


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, OSError])
@pytest.mark.anyio
async def test_what_the_caller_raises_in_the_block_comes_out_as_it_is(
    error: type[Exception],
) -> None:
    mine = error("mine")
    with LoopbackLLM() as server:
        client = await connect(server.url)
        with pytest.raises(error) as caught:  # noqa: PT012
            async with client.stream(HI) as events:
                await anext(events)
                raise mine
        assert caught.value is mine


@pytest.mark.anyio
async def test_an_instance_that_nobody_keeps_goes_without_a_warning() -> None:
    with LoopbackLLM() as server:
        for _ in range(3):
            await ask(await connect(server.url), False)
            gc.collect()
            await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_an_answer_is_whole_at_done_though_the_server_sends_no_end() -> None:
    left = anyio.Event()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while not (await stream.receive()).endswith(b"}"):
                pass
            length = b"content-length: 10000\r\n\r\n"
            await stream.send(b"HTTP/1.1 200 OK\r\n" + length + Counted.body)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
            left.set()

    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listeners, anyio.create_task_group() as group:
        group.start_soon(listeners.serve, serve)
        port = listeners.extra(anyio.abc.SocketAttribute.local_port)
        client = await connect(f"http://127.0.0.1:{port}/v1", timeout=1000)
        with anyio.fail_after(10):
            assert (await ask(client, True))[0].message.text == "ok"
            await left.wait()
        group.cancel_scope.cancel()


class Counted:
    """A server of one piece of stream whose connections stay open; it counts them."""

    connections = 0
    body = b'data: {"choices": [{"delta": {"content": "ok"}}]}\n\ndata: [DONE]\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with stream:
            got = b""
            while True:
                try:
                    got += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                if got.endswith(b"}"):  # the request's JSON is there
                    got = b""
                    await stream.send(self.head + b"\r\n%x\r\n" % len(self.body) + self.body)
                    await stream.send(b"\r\n0\r\n\r\n")


@pytest.mark.anyio
async def test_a_stream_read_to_its_end_leaves_its_connection_for_the_next() -> None:
    counted = Counted()
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listeners, anyio.create_task_group() as group:
        group.start_soon(listeners.serve, counted.serve)
        port = listeners.extra(anyio.abc.SocketAttribute.local_port)
        client = await connect(f"http://127.0.0.1:{port}/v1")
        for _ in range(3):
            assert (await ask(client, True))[0].message.text == "ok"
        group.cancel_scope.cancel()
    assert counted.connections == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_one_instance_for_loops_one_after_another_and_at_once() -> None:
    before = open_sockets()
    runs: list[Callable[..., Any]] = [asyncio.run, lambda main: trio.run(lambda: main)]
    answers: list[str] = []
    with LoopbackLLM(Reply("ok")) as server:
        client = asyncio.run(connect(server.url))

        async def talk(barrier: threading.Barrier | None = None) -> None:
            for streamed in (True, False, True):
                answers.append((await ask(client, streamed))[0].message.text)
                if barrier is not None:
                    barrier.wait(30)  # all loops are alive, each with its pool

        for run in runs * 3:
            run(talk())
        barrier = threading.Barrier(6)
        threads = [
            threading.Thread(target=run, args=(talk(barrier),)) for run in runs for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(talk())
    assert answers == ["ok"] * server.count
    assert server.count == 3 * (6 + 6 + 1)
    assert not open_sockets() - before


# -- addresses


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_redirect_is_not_followed(streamed: bool) -> None:
    with LoopbackLLM(Reply("elsewhere")) as other:
        target = f"{other.url}/chat/completions".encode()
        answer = b"HTTP/1.1 307 x\r\ncontent-length: 0\r\nlocation: " + target + b"\r\n\r\n"
        async with raw_server(answer) as url:
            with pytest.raises(LLMResponseError) as caught:
                await ask(await connect(url), streamed)
        assert caught.value.status == 307
        assert other.count == 0


@pytest.mark.parametrize(
    "url",
    ["http://example.com/v1", "http://127.0.0.1.example.com", "ftp://localhost", "https://", "x",
     "https://user:sk-canary@example.com/v1", "http://0.0.0.0/v1"],
)  # fmt: skip
@pytest.mark.anyio
async def test_an_address_that_would_show_the_key_is_refused(url: str) -> None:
    with pytest.raises(ClientCreationError) as caught:
        await connect(url)
    assert "sk-canary" not in str(caught.value)
    assert "base_url" in str(caught.value)
