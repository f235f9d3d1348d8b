"""What can go wrong between us and a model: a typed error each time, which shows nothing."""

from __future__ import annotations

import logging
import re
import socket
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple

import anyio
import pytest
from msgspec.structs import replace

from asynchistory import (
    ChatRequest,
    LLMAuthenticationError,
    LLMClient,
    LLMConnectionError,
    LLMError,
    LLMFactory,
    LLMOverloadedError,
    LLMQuotaError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
    Message,
    ToolSpec,
)
from asynchistory.testing import CallTool, Fault, Gate, LoopbackLLM, Reply
from asynchistory.testing.replies import ErrorAnswer
from tests.llm.asking import BOTH_FORMATS, BOTH_WAYS, KEY, ON_LINUX, Connections, ask, connect

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

ASKED = "canary of what was asked"
SAID = "canary of what was said, in many more words than a piece of a stream has"
TOOLS = (ToolSpec(name="canary_tool", description=""),)
REQUEST = ChatRequest(messages=(Message.of("user", ASKED),), tools=TOOLS)
HALF = Reply(SAID)
FINE = Reply("fine", tool_calls=[CallTool("weather", {"city": "Oslo"}), CallTool("time")])


class Case(NamedTuple):
    """A fault and its error: its status, None without an answer; seconds to wait."""

    fault: Callable[[], Fault]
    error: type[LLMError]
    status: int | None
    retry_after: float | None = None


def told(status: int, code: str | None = None) -> Callable[[], Fault]:
    """An error whose message repeats the key and the request, as providers' do."""
    return lambda: Fault.status(status, f"Incorrect key {KEY} for: {ASKED}", code=code)


def quoted_in_the_stream() -> Fault:
    answer = ErrorAnswer(500, f"Incorrect key {KEY} for: {ASKED}")
    return Fault("error_event", answer, reply=HALF, after=2)


CASES: dict[str, Case] = {
    "401": Case(Fault.unauthorized, LLMAuthenticationError, 401),
    "401 that quotes": Case(told(401, "invalid_api_key"), LLMAuthenticationError, 401),
    "code that quotes": Case(told(401, KEY), LLMAuthenticationError, 401),
    "403": Case(told(403), LLMAuthenticationError, 403),
    "404": Case(told(404, "model_not_found"), LLMRequestError, 404),
    "400 that quotes": Case(told(400), LLMRequestError, 400),
    "413": Case(told(413), LLMRequestError, 413),
    "402": Case(told(402), LLMQuotaError, 402),
    "408": Case(told(408), LLMTimeoutError, 408),
    "409": Case(told(409), LLMRequestError, 409),
    "429": Case(lambda: Fault.rate_limited(7), LLMRateLimitError, 429, retry_after=7),
    "quota": Case(Fault.quota_exhausted, LLMQuotaError, 429),
    "500": Case(Fault.server_error, LLMServerError, 500),
    "503": Case(Fault.unavailable, LLMServerError, 503),
    "504": Case(told(504), LLMTimeoutError, 504),
    "529": Case(Fault.overloaded, LLMOverloadedError, 529),
    "hang up": Case(Fault.hang_up, LLMConnectionError, None),
    "malformed": Case(lambda: Fault.malformed(reply=HALF), LLMResponseError, 200),
    "malformed at once": Case(lambda: Fault.malformed(after=0, reply=HALF), LLMResponseError, 200),
    "cut": Case(lambda: Fault.cut(after=4, reply=HALF), LLMResponseError, 200),
    "cut at once": Case(lambda: Fault.cut(after=0, reply=HALF), LLMResponseError, 200),
}
every_case = pytest.mark.parametrize("name", sorted(CASES))


async def failure(client: LLMClient, streamed: bool, request: ChatRequest = REQUEST) -> LLMError:
    with anyio.fail_after(30), pytest.raises(LLMError) as caught:
        await ask(client, streamed, request)
    return caught.value


def shows_nothing(error: BaseException) -> None:
    texts = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    texts += traceback.format_exception(error)
    for text in texts:
        # The lines of this file that a traceback quotes say only names.
        assert not re.search("sk-canary|canary of|authorization|Bearer", text, re.IGNORECASE), text


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["alone", "tools"])
@every_case
@ON_LINUX
@pytest.mark.anyio
async def test_a_fault_is_a_typed_error_and_the_next_request_works(
    name: str, tools: tuple[ToolSpec, ...], streamed: bool, provider: str
) -> None:
    case = CASES[name]
    request = replace(REQUEST, tools=tools)
    with LoopbackLLM([case.fault(), FINE]) as server:
        connections = Connections(server)
        client = await connect(server.url, provider)
        error = await failure(client, streamed, request)
        assert type(error) is case.error
        assert (error.provider, error.status) == (provider, case.status)
        assert error.request_id == (None if case.status is None else "req_1")
        assert (error.retry_after, error.attempts) == (case.retry_after, 1)
        shows_nothing(error)
        whole, _ = await ask(client, streamed, request)
        assert (whole.message.text, len(whole.message.tool_calls)) == ("fine", 2)
        assert server.count == 2  # and nothing was sent twice
        # The fault's own is free again: used for the second, or closed.
        assert connections.count() == 1


@BOTH_FORMATS
@pytest.mark.anyio
async def test_an_answer_that_is_whole_under_a_wrong_length(provider: str) -> None:
    with LoopbackLLM([Fault.wrong_length(reply=HALF), FINE]) as server:
        client = await connect(server.url, provider)
        # Streamed, [DONE] is its end, whatever was promised.
        assert (await ask(client, True))[0].message.text == SAID
        assert (await ask(client, True))[0].message.text == "fine"


@BOTH_FORMATS
@pytest.mark.anyio
async def test_a_plain_answer_under_a_wrong_length(provider: str) -> None:
    with LoopbackLLM([Fault.wrong_length(reply=HALF), FINE]) as server:
        client = await connect(server.url, provider)
        error = await failure(client, False)
        assert (type(error), error.status) == (LLMResponseError, 200)
        shows_nothing(error)
        assert (await ask(client, False))[0].message.text == "fine"


@BOTH_FORMATS
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.anyio
async def test_an_error_in_the_stream(after: int, provider: str) -> None:
    with LoopbackLLM([Fault.error_event(after=after, reply=HALF), FINE]) as server:
        client = await connect(server.url, provider)
        error = await failure(client, True)
        assert type(error) is LLMServerError
        assert (error.status, error.request_id) == (200, "req_1")
        shows_nothing(error)
        assert (await ask(client, True))[0].message.text == "fine"


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_hangs(streamed: bool, provider: str) -> None:
    with LoopbackLLM([Fault.hang(), FINE]) as server:
        client = await connect(server.url, provider, timeout=2.0)
        error = await failure(client, streamed)
        assert type(error) is LLMTimeoutError
        assert (error.status, error.request_id) == (None, None)
        shows_nothing(error)
        with anyio.fail_after(30):
            await server.requests[0].ended.wait_async()
        slow = await connect(server.url, provider)
        assert (await ask(slow, streamed))[0].message.text == "fine"


@BOTH_FORMATS
@pytest.mark.anyio
async def test_a_stream_that_stops_coming(provider: str) -> None:
    gate = Gate()
    with LoopbackLLM([Reply(SAID, gate=gate, gate_after=2), FINE]) as server:
        client = await connect(server.url, provider, timeout=2.0)
        error = await failure(client, True)
        assert type(error) is LLMTimeoutError
        assert (error.status, error.request_id) == (200, "req_1")
        shows_nothing(error)
        assert (await ask(client, True))[0].message.text == "fine"


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
        assert (await ask(client, False))[0].message.text == "fine"
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
            completion, _ = await ask(client, streamed)
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


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.parametrize(
    "fault",
    [told(401), told(529), quoted_in_the_stream, Fault.cut, Fault.malformed, Fault.hang_up],
)
@pytest.mark.anyio
async def test_neither_logs_nor_reports_with_local_variables_show_a_key(
    fault: Callable[[], Fault], streamed: bool, provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Crash reporters add the variables of each frame of ours."""
    caplog.set_level(logging.DEBUG)
    with LoopbackLLM(fault()) as server:
        client = await connect(server.url, provider, metadata={"secret": f"{KEY}-too"})
        error = await failure(client, streamed)
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(report.format())
        assert KEY not in text
        assert KEY not in caplog.text
        assert server.count == 1


def test_an_instance_and_its_statistics_show_no_key() -> None:
    factory = LLMFactory()

    async def main() -> None:
        client = await factory.get("openai", "m", base_url="https://example.com", api_key=KEY)
        assert "sk-canary" not in repr(client) + repr(client.key) + repr(vars(client.key.__class__))

    anyio.run(main)
    assert "sk-canary" not in repr(factory.get_cache_stats())
