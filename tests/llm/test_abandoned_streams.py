"""Streams that are left before their end: the server knows, and the connection is free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from asynchistory import LLMClient, TextDelta
from asynchistory.testing import Gate, LoopbackLLM, Reply
from tests.llm.asking import BOTH_FORMATS, HI, ON_LINUX, Connections, ask, connect

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")


async def leave(client: LLMClient, gate: Gate) -> None:
    async with client.stream(HI) as events:
        assert isinstance(await anext(events), TextDelta)


async def leave_at_once(client: LLMClient, gate: Gate) -> None:
    async with client.stream(HI):
        await gate.reached.wait_async()


async def fail(client: LLMClient, gate: Gate) -> None:
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
        async with client.stream(HI) as events:
            await anext(events)
            raise mine
    assert caught.value is mine


async def be_cancelled(client: LLMClient, gate: Gate) -> None:
    """While it waits for the next piece."""

    async def read() -> None:
        async with client.stream(HI) as events:
            async for _ in events:
                pass

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await gate.reached.wait_async()
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


async def be_cancelled_before_it_begins(client: LLMClient, gate: Gate) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await leave(client, gate)
    await leave(client, gate)


@BOTH_FORMATS
@ON_LINUX
@pytest.mark.parametrize(
    "way", [leave, leave_at_once, fail, be_cancelled, be_cancelled_before_it_begins]
)
@pytest.mark.anyio
async def test_a_stream_that_is_left_frees_its_connection(
    way: Callable[[LLMClient, Gate], Awaitable[None]], provider: str
) -> None:
    gate = Gate()
    held = Reply("Never heard to its end", gate=gate, gate_after=5)
    with LoopbackLLM([held, Reply("ok")]) as server, anyio.fail_after(30):
        connections = Connections(server)
        client = await connect(server.url, provider)
        await way(client, gate)
        await server.requests[0].ended.wait_async()
        assert not server.requests[0].answered
        assert connections.count() == 0
        assert (await ask(client, True))[0].message.text == "ok"
        assert server.count == 2
        assert connections.count() == 1  # and that one is kept


@BOTH_FORMATS
@pytest.mark.anyio
async def test_a_plain_answer_that_is_cancelled_in_its_middle(provider: str) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"
    sent, left = anyio.Event(), anyio.Event()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while not (await stream.receive()).endswith(b"}"):
                pass
            await stream.send(half)
            sent.set()
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
            left.set()

    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listeners, anyio.create_task_group() as group:
        group.start_soon(listeners.serve, serve)
        port = listeners.extra(anyio.abc.SocketAttribute.local_port)
        client = await connect(f"http://127.0.0.1:{port}/v1", provider)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as asking:
                asking.start_soon(client.complete, HI)
                await sent.wait()
                await anyio.wait_all_tasks_blocked()
                asking.cancel_scope.cancel()
            await left.wait()  # the connection is closed
        group.cancel_scope.cancel()
