"""What can go wrong between us and a model: a typed error each time, which shows nothing."""

from __future__ import annotations

import re
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import pytest

from asynchistory import (
    ChatRequest,
    Completion,
    LLMAuthenticationError,
    LLMClient,
    LLMConnectionError,
    LLMError,
    LLMFactory,
    LLMQuotaError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
    Message,
    ToolSpec,
)
from asynchistory.testing import Fault, Gate, LoopbackLLM, Reply

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

KEY = "sk-canary-0123456789"
ASKED = "canary of what was asked"
SAID = "canary of what was said, in many more words than a piece of a stream has"
REQUEST = ChatRequest(
    messages=(Message.of("user", ASKED),), tools=(ToolSpec(name="canary_tool", description=""),)
)
BOTH_WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
HALF = Reply(SAID)


class Case(NamedTuple):
    """A fault and its error: status, whether the answer had a request id, seconds to wait."""

    fault: Callable[[], Fault]
    error: type[LLMError]
    status: int | None
    request_id: bool = True
    retry_after: float | None = None


def told(status: int, code: str | None = None) -> Callable[[], Fault]:
    """An error whose message repeats the key and the request, as providers' do."""
    return lambda: Fault.status(status, f"Incorrect key {KEY} for: {ASKED}", code=code)


CASES: dict[str, Case] = {
    "401": Case(Fault.unauthorized, LLMAuthenticationError, 401),
    "401 that quotes": Case(told(401, "invalid_api_key"), LLMAuthenticationError, 401),
    "code that quotes": Case(told(401, KEY), LLMAuthenticationError, 401),
    "403": Case(told(403), LLMAuthenticationError, 403),
    "404": Case(told(404, "model_not_found"), LLMRequestError, 404),
    "400 that quotes": Case(told(400), LLMRequestError, 400),
    "413": Case(told(413), LLMRequestError, 413),
    "429": Case(lambda: Fault.rate_limited(7), LLMRateLimitError, 429, retry_after=7),
    "quota": Case(Fault.quota_exhausted, LLMQuotaError, 429),
    "500": Case(Fault.server_error, LLMServerError, 500),
    "503": Case(Fault.unavailable, LLMServerError, 503),
    "malformed": Case(lambda: Fault.malformed(reply=HALF), LLMResponseError, 200),
    "malformed at once": Case(lambda: Fault.malformed(after=0, reply=HALF), LLMResponseError, 200),
    "cut": Case(lambda: Fault.cut(after=4, reply=HALF), LLMResponseError, 200),
    "cut at once": Case(lambda: Fault.cut(after=0, reply=HALF), LLMResponseError, 200),
}
every_case = pytest.mark.parametrize("name", sorted(CASES))


async def connect(url: str, **options: Any) -> LLMClient:
    options = {"base_url": url, "api_key": KEY, "max_retries": 0, **options}
    return await LLMFactory().get("openai", "m", **options)


async def ask(client: LLMClient, streamed: bool) -> Completion:
    if not streamed:
        return await client.complete(REQUEST)
    whole = None
    async with client.stream(REQUEST) as events:
        async for event in events:
            whole = event
    assert isinstance(whole, Completion)
    return whole


async def failure(client: LLMClient, streamed: bool) -> LLMError:
    with anyio.fail_after(30), pytest.raises(LLMError) as caught:
        await ask(client, streamed)
    return caught.value


def shows_nothing(error: BaseException) -> None:
    texts = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    texts += traceback.format_exception(error)
    for text in texts:
        # The lines of this file that a traceback quotes say only names.
        assert not re.search("sk-canary|canary of|authorization|Bearer", text, re.IGNORECASE), text


@BOTH_WAYS
@every_case
@pytest.mark.anyio
async def test_a_fault_is_a_typed_error_and_the_next_request_works(
    name: str, streamed: bool
) -> None:
    case = CASES[name]
    with LoopbackLLM([case.fault(), Reply("fine")]) as server:
        client = await connect(server.url)
        error = await failure(client, streamed)
        assert type(error) is case.error
        assert error.provider == "openai"
        assert error.status == case.status
        assert error.request_id == ("req_1" if case.request_id else None)
        assert error.retry_after == case.retry_after
        shows_nothing(error)
        assert (await ask(client, streamed)).message.text == "fine"
        assert server.count == 2  # and nothing was sent twice


@pytest.mark.anyio
async def test_an_answer_that_is_whole_under_a_wrong_length() -> None:
    with LoopbackLLM([Fault.wrong_length(reply=HALF), Reply("fine")]) as server:
        client = await connect(server.url)
        # Streamed, [DONE] is its end, whatever was promised.
        assert (await ask(client, True)).message.text == SAID
        assert (await ask(client, True)).message.text == "fine"


@pytest.mark.anyio
async def test_a_plain_answer_under_a_wrong_length() -> None:
    with LoopbackLLM([Fault.wrong_length(reply=HALF), Reply("fine")]) as server:
        client = await connect(server.url)
        error = await failure(client, False)
        assert (type(error), error.status) == (LLMResponseError, 200)
        shows_nothing(error)
        assert (await ask(client, False)).message.text == "fine"


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.anyio
async def test_an_error_in_the_stream(after: int) -> None:
    with LoopbackLLM([Fault.error_event(after=after, reply=HALF), Reply("fine")]) as server:
        client = await connect(server.url)
        error = await failure(client, True)
        assert type(error) is LLMServerError
        assert (error.status, error.request_id) == (200, "req_1")
        shows_nothing(error)
        assert (await ask(client, True)).message.text == "fine"


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_hangs(streamed: bool) -> None:
    with LoopbackLLM([Fault.hang(), Reply("fine")]) as server:
        client = await connect(server.url, timeout=2.0)
        error = await failure(client, streamed)
        assert type(error) is LLMTimeoutError
        assert (error.status, error.request_id) == (None, None)
        shows_nothing(error)
        with anyio.fail_after(30):
            await server.requests[0].ended.wait_async()
        slow = await connect(server.url)
        assert (await ask(slow, streamed)).message.text == "fine"


@pytest.mark.anyio
async def test_a_stream_that_stops_coming() -> None:
    gate = Gate()
    with LoopbackLLM([Reply(SAID, gate=gate, gate_after=2), Reply("fine")]) as server:
        client = await connect(server.url, timeout=2.0)
        error = await failure(client, True)
        assert type(error) is LLMTimeoutError
        assert (error.status, error.request_id) == (200, "req_1")
        shows_nothing(error)
        assert (await ask(client, True)).message.text == "fine"


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_hangs_up_without_an_answer(streamed: bool) -> None:
    with LoopbackLLM([Fault.hang_up(), Reply("fine")]) as server:
        client = await connect(server.url)
        error = await failure(client, streamed)
        assert type(error) is LLMConnectionError  # "could not be reached, or hung up"
        assert (error.status, error.request_id) == (None, None)
        shows_nothing(error)
        assert (await ask(client, streamed)).message.text == "fine"


ANSWER = b'{"choices": [{"message": {"role": "assistant", "content": "fine"}}]}'


def serve_once(listener: socket.socket, answer: bytes) -> None:
    """Answer one request with these bytes, and hang up."""
    connection, _ = listener.accept()
    with connection:
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert found is not None
        while len(body) < int(found[1]):
            body += connection.recv(65536)
        connection.sendall(answer)


def http(body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: " + kind
    return head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_is_dead_and_comes_back(streamed: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # the port is ours, and nobody listens
        client = await connect(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        error = await failure(client, streamed)
        assert type(error) is LLMConnectionError
        assert (error.status, error.request_id) == (None, None)
        shows_nothing(error)
        listener.listen()
        server = threading.Thread(target=serve_once, args=(listener, http(ANSWER)))
        server.start()
        assert (await ask(client, False)).message.text == "fine"
        server.join()


def chunk(delta: str, more: str = "") -> bytes:
    return f'data: {{"choices": [{{"delta": {delta}}}]{more}}}\n\n'.encode()


DONE = b"data: [DONE]\n\n"
NO_ANSWERS: dict[str, tuple[bool, bytes]] = {
    "not JSON": (False, b"<html>sk-canary</html>"),
    "empty": (False, b""),
    "null": (False, b"null"),
    "a list": (False, b"[]"),
    "no choices": (False, b'{"choices": []}'),
    "choices null": (False, b'{"choices": null}'),
    "message null": (False, b'{"choices": [{"message": null}]}'),
    "no role": (False, b'{"choices": [{"message": {"content": "canary of"}}]}'),
    "content a number": (
        False, b'{"choices": [{"message": {"role": "assistant", "content": 5}}]}'),
    "a lone surrogate": (
        False, b'{"choices": [{"message": {"role": "assistant", "content": "\\ud800"}}]}'),
    "too deep": (False, b"[" * 100_000),
    "usage no object of numbers": (
        False, ANSWER[:-1] + b', "usage": {"prompt_tokens": "seven", "completion_tokens": -1}}'),
    "reason no text": (False, ANSWER.replace(b'"fine"}', b'"fine"}, "finish_reason": 5')),
    "data not JSON": (True, b"data: sk-canary\n\n" + DONE),
    "data a list": (True, b"data: []\n\n" + DONE),
    "delta a list": (True, chunk("[1]") + DONE),
    "text a number": (True, chunk('{"content": 5}') + DONE),
    "reasoning a number": (True, chunk('{"reasoning_content": 5}') + DONE),
    "call a number": (True, chunk('{"tool_calls": [5]}') + DONE),
    "arguments a number": (
        True, chunk('{"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": 5}}]}')
        + DONE),
    "index a list": (True, chunk('{"tool_calls": [{"index": []}]}') + DONE),
    "usage not of numbers": (
        True, chunk('{"content": "x"}', ', "usage": {"prompt_tokens": "seven"}') + DONE),
    "too deep in a stream": (True, b"data: " + b"[" * 100_000 + b"\n\n" + DONE),
    "error null": (True, b'data: {"error": "sk-canary"}\n\n' + DONE),
    "no event at all": (True, b""),
    "HTML as a stream": (True, b"<html>sk-canary</html>\n\n"),
    "JSON as a stream": (True, ANSWER),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NO_ANSWERS))
@pytest.mark.anyio
async def test_an_answer_that_is_none(name: str) -> None:
    streamed, body = NO_ANSWERS[name]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = await connect(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        kind = b"text/event-stream" if streamed else b"application/json"
        server = threading.Thread(target=serve_once, args=(listener, http(body, kind)))
        server.start()
        error: LLMError | None = None
        try:
            completion = await ask(client, streamed)
        except LLMError as caught:
            error = caught
        server.join()
    if error is not None:
        assert type(error) in (LLMResponseError, LLMServerError)
        assert error.status == 200
        shows_nothing(error)
        return
    # Numbers that are none may be left out; the answer is there all the same.
    assert name in ("usage no object of numbers", "usage not of numbers", "reason no text")
    assert completion.usage is None or completion.usage.input_tokens is None
    assert completion.finish_reason is None or isinstance(completion.finish_reason, str)


@BOTH_WAYS
@pytest.mark.parametrize("fault", [Fault.unauthorized, Fault.cut, Fault.malformed, Fault.hang_up])
@pytest.mark.anyio
async def test_reports_with_local_variables_show_no_key(
    fault: Callable[[], Fault], streamed: bool
) -> None:
    """Crash reporters add the variables of each frame of ours."""
    with LoopbackLLM(fault()) as server:
        client = await connect(server.url)
        error = await failure(client, streamed)
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(report.format())
        assert "sk-canary" not in text


def test_an_instance_and_its_statistics_show_no_key() -> None:
    factory = LLMFactory()

    async def main() -> None:
        client = await factory.get("openai", "m", base_url="https://example.com", api_key=KEY)
        assert "sk-canary" not in repr(client) + repr(client.key) + repr(vars(client.key.__class__))

    anyio.run(main)
    assert "sk-canary" not in repr(factory.get_cache_stats())
