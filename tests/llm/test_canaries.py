"""No secret in any log, repr, error, traceback with local variables, or pickle."""

from __future__ import annotations

import logging
import pickle
import socket
import ssl
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from asynchistory import (
    AsyncHistoryError,
    AsyncHistoryManager,
    ClientCreationError,
    Conversation,
    LLMConnectionError,
    LLMError,
    LLMFactory,
    MemoryStorage,
)
from asynchistory.environment import Secret, api_key, proxies
from asynchistory.llm import http
from asynchistory.testing import Fault, Gate, LoopbackLLM
from tests.llm.asking import BOTH_WAYS, KEY, ask, connect
from tests.llm.certificates import NAME, tls as tls
from tests.llm.proxy_server import ProxyServer
from tests.llm.raw_server import RawServer

PASSWORD = "canary-of-a-proxy"
CANARIES = ["canary", b64encode(f"user:{PASSWORD}".encode()).decode().rstrip("=")]
FAULTS: dict[str, Callable[[], Fault]] = {
    "401": Fault.unauthorized,
    "401 that quotes": lambda: Fault.status(401, f"Incorrect key {KEY}", code="invalid_api_key"),
    "code that quotes": lambda: Fault.status(400, "x", code=KEY),
    "429": Fault.rate_limited,
    "quota": Fault.quota_exhausted,
    "500": Fault.server_error,
    "503": Fault.unavailable,
    "malformed": Fault.malformed,
    "malformed at once": lambda: Fault.malformed(after=0),
    "cut": Fault.cut,
    "cut at once": lambda: Fault.cut(after=0),
    "error inside": lambda: Fault.error_event(),
    "wrong length": Fault.wrong_length,
    "hang up": Fault.hang_up,
}


def check(*texts: str) -> None:
    for text in texts:
        for canary in CANARIES:
            place = text.find(canary)
            assert place < 0, f"...{text[max(0, place - 300) : place + 50]}"


def check_error(error: BaseException) -> None:
    """Look at it and at all that led to it, however it was hidden."""
    seen, todo = {None}, [error]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        report = traceback.TracebackException.from_exception(one, capture_locals=True)
        check(str(one), repr(one), repr(vars(one)), "".join(report.format()))
        todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]  # type: ignore[list-item]
    if isinstance(error, AsyncHistoryError):
        check(pickle.dumps(error).decode("latin-1"))


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    check(caplog.text, *(repr(vars(record)) for record in caplog.records))


def test_the_logs_of_requests_are_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    with LoopbackLLM() as server:
        anyio.run(lambda: _connect_and_ask(server.url))
    names = {record.name.partition(".")[0] for record in caplog.records}
    assert {"httpx", "httpcore"} <= names


async def _connect_and_ask(url: str) -> None:
    await ask(await connect(url), True)


@BOTH_WAYS
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.anyio
async def test_what_goes_wrong_shows_none(fault: Callable[[], Fault], streamed: bool) -> None:
    with LoopbackLLM(fault()) as server:
        client = await connect(server.url)
        try:
            await ask(client, streamed)
        except LLMError as error:
            check_error(error)
        check(repr(client), repr(vars(client)))


@BOTH_WAYS
@pytest.mark.anyio
async def test_an_answer_shows_none(streamed: bool) -> None:
    with LoopbackLLM() as server:
        client = await connect(server.url)
        answer, pieces = await ask(client, streamed)
        check(repr(answer), repr(pieces), repr(server), repr(server.requests))


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_is_not_there_shows_none(streamed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LLMConnectionError) as caught:
        await ask(await connect(f"http://127.0.0.1:{port}/v1"), streamed)
    check_error(caught.value)


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_request_cancelled_anywhere_shows_none(streamed: bool) -> None:
    """Cancelled at each turn of the loop, from before the connection to behind the question."""
    caught: list[BaseException] = []

    async def try_it(url: str) -> None:
        try:
            await ask(await connect(url), streamed)
        except BaseException as error:
            check_error(error)
            caught.append(error)
            raise

    for turns in range(30):
        gate = Gate()
        with LoopbackLLM(Fault.hang(gate)) as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(try_it, server.url)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                if turns == 29:
                    await gate.reached.wait_async()
                tasks.cancel_scope.cancel()
    assert len(caught) >= 25


@pytest.mark.parametrize("key", ["sk-canary\nx", "sk-canary-ключ"])
@BOTH_WAYS
@pytest.mark.anyio
async def test_a_key_that_no_header_can_carry_shows_nothing(key: str, streamed: bool) -> None:
    client = await _with(key)
    del key
    with pytest.raises(LLMError) as caught:
        await ask(client, streamed)
    check_error(caught.value)


async def _with(key: str) -> Any:
    return await connect("http://127.0.0.1:1/v1", api_key=key)


@pytest.mark.parametrize(
    ("provider", "url"), [("openai", "ftp://x"), ("unknown", "https://example.com")]
)
@pytest.mark.anyio
async def test_an_instance_that_cannot_be_made_shows_none(provider: str, url: str) -> None:
    factory = LLMFactory()
    with pytest.raises(ClientCreationError) as caught:
        await factory.get(provider, "m", base_url=url, api_key=KEY)
    check_error(caught.value)
    history = AsyncHistoryManager(MemoryStorage())
    conversation = Conversation(
        history, factory=factory, provider=provider, model="m", base_url=url, api_key=KEY
    )
    async with history:
        with pytest.raises(ClientCreationError) as caught:
            await conversation.__aenter__()
    check_error(caught.value)
    check(repr(conversation), repr(vars(conversation)), repr(factory), repr(vars(factory)))


@pytest.mark.anyio
async def test_no_pickle_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:1")
    factory = LLMFactory()
    client = await connect("https://example.com", api_key=KEY)
    for thing in (factory, client, client.key, factory.http_client(), factory.get_cache_stats()):
        try:
            check(pickle.dumps(thing).decode("latin-1"))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            check_error(error)


# -- behind a proxy with a password


@asynccontextmanager
async def proxied(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[RawServer, ProxyServer]]:
    with RawServer(tls=tls) as server, ProxyServer(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@{proxy.address}")
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{PASSWORD}@{proxy.address}")
        yield server, proxy


async def _refuse(server: RawServer, proxy: ProxyServer) -> None:
    proxy.refuses = True


async def _hang_up(server: RawServer, proxy: ProxyServer) -> None:
    server.answer = lambda request: None


async def _lead_nowhere(server: RawServer, proxy: ProxyServer) -> None:
    proxy.target = 1


@BOTH_WAYS
@pytest.mark.parametrize("go_wrong", [_refuse, _hang_up, _lead_nowhere])
@pytest.mark.anyio
async def test_a_proxy_s_password_is_not_shown(
    go_wrong: Callable[[RawServer, ProxyServer], Awaitable[None]],
    streamed: bool,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxied(tls, monkeypatch) as (server, proxy):
        client = await connect(f"https://{NAME}/v1")
        check(repr(client), repr(vars(client)), repr(proxies()))
        await go_wrong(server, proxy)
        with pytest.raises(LLMError) as caught:
            await ask(client, streamed)
        check_error(caught.value)


# -- a client that was handed out


@pytest.mark.anyio
async def test_a_handed_out_client_s_errors_show_none(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(tls, monkeypatch) as (server, proxy):
        client = LLMFactory().http_client()
        check(repr(client), repr(vars(client)), repr(client._mounts))
        secret = partial(client.post, f"https://{NAME}", json={}, headers=_headers(KEY))
        forwarded = partial(client.post, f"http://{NAME}", json={}, headers=_headers(KEY))
        await _refuse(server, proxy)
        with pytest.raises(httpx.ProxyError) as refused:
            await secret()
        check_error(refused.value)
        assert (await forwarded()).status_code == 407
        proxy.refuses = False
        await _hang_up(server, proxy)
        with pytest.raises(httpx.RemoteProtocolError) as ended:
            await secret()
        check_error(ended.value)
        for number in range(len(ENDS)):
            with pytest.raises(httpx.LocalProtocolError, match="authorization") as unsendable:
                await client.post(f"https://{NAME}", json={}, headers=_headers(KEY, number))
            check_error(unsendable.value)


#: What no header's value may have.
ENDS = ("\n", "\0", "\r\nx: y", " ")


def _headers(key: str, end: int | None = None) -> dict[str, str]:
    after = "" if end is None else ENDS[end]
    return {"authorization": Secret(f"Bearer {key}{after}"), "x-api-key": Secret(key)}


@pytest.mark.anyio
async def test_an_error_of_the_caller_s_own_keeps_its_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = http.http_client(1)

    class MineError(ValueError):
        __hash__ = None  # type: ignore[assignment]

    async def ask_while_handling() -> None:
        try:
            raise MineError
        except MineError:
            await client.get(f"http://127.0.0.1:{port}")

    with pytest.raises(httpx.ConnectError) as caught:
        await ask_while_handling()
    error: BaseException = caught.value
    while error.__context__ is not None:
        error = error.__context__
    assert isinstance(error, MineError)
    assert error.__traceback__ is not None


def test_the_environment_s_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:1")
    key = api_key("openai")
    assert key == KEY
    check(repr(key), repr([key]), repr(proxies()))
