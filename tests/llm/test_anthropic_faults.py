"""What is no answer in Anthropic's format: a typed error each time, which shows nothing."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from asynchistory import (
    LLMAuthenticationError,
    LLMError,
    LLMOverloadedError,
    LLMQuotaError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
)
from tests.llm.asking import ask, connect
from tests.llm.test_anthropic_client import SAID, START, STOP, TEXT, sse
from tests.llm.test_llm_faults import http, serve_once, shows_nothing

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "fine"}]}


def block(content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": content}


def delta(content: Any, index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": content}


def plain(**changes: Any) -> bytes:
    return json.dumps(ANSWER | changes).encode()


NO_ANSWERS: dict[str, tuple[bool, bytes]] = {
    "not JSON": (False, b"<html>sk-canary</html>"),
    "empty": (False, b""),
    "null": (False, b"null"),
    "a list": (False, b"[]"),
    "no content": (False, b'{"role": "assistant"}'),
    "no role": (False, b'{"content": []}'),
    "content a number": (False, plain(content=5)),
    "a lone surrogate": (False, plain(content="\ud800")),
    "too deep": (False, b"[" * 100_000),
    "OpenAI's": (False, b'{"choices": [{"message": {"role": "assistant", "content": "x"}}]}'),
    "data not JSON": (True, b"data: sk-canary\n\n" + sse(STOP)),
    "data a list": (True, b"data: []\n\n" + sse(STOP)),
    "no type": (True, b'data: {"index": 0}\n\n' + sse(STOP)),
    "delta a list": (True, sse(START, TEXT, delta([1]), STOP)),
    "text a number": (True, sse(START, TEXT, delta({"text": 5}), STOP)),
    "thinking a number": (True, sse(START, TEXT, delta({"thinking": 5}), STOP)),
    "arguments a number": (True, sse(START, TEXT, delta({"partial_json": 5}), STOP)),
    "a block that did not begin": (True, sse(START, SAID, STOP)),
    "no index": (True, sse(START, TEXT, delta({"text": "x"}, None), STOP)),
    "index a list": (True, sse(START, TEXT, delta({"text": "x"}, []), STOP)),
    "block a number": (True, sse(START, block(5), STOP)),
    "role a number": (True, sse({"type": "message_start", "message": {"role": 5}}, STOP)),
    "too deep in a stream": (True, b"data: " + b"[" * 100_000 + b"\n\n" + sse(STOP)),
    "error null": (True, sse(START, {"type": "error"})),
    "error a text": (True, sse(START, {"type": "error", "error": "sk-canary"})),
    "no event at all": (True, b""),
    "cut off": (True, sse(START, TEXT, SAID)),
    "HTML as a stream": (True, b"<html>sk-canary</html>\n\n"),
    "OpenAI's stream": (True, b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
}


async def given(body: bytes, streamed: bool) -> Any:
    """What becomes of an answer with this body."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = await connect(f"http://127.0.0.1:{listener.getsockname()[1]}", "anthropic")
        kind = b"text/event-stream" if streamed else b"application/json"
        server = threading.Thread(target=serve_once, args=(listener, http(body, kind)))
        server.start()
        try:
            return (await ask(client, streamed))[0]
        except LLMError as error:
            return error
        finally:
            server.join()


@pytest.mark.parametrize("name", sorted(NO_ANSWERS))
@pytest.mark.anyio
async def test_an_answer_that_is_none(name: str) -> None:
    streamed, body = NO_ANSWERS[name]
    error = await given(body, streamed)
    assert type(error) is LLMResponseError
    assert (error.status, error.retryable) == (200, False)
    shows_nothing(error)


@pytest.mark.parametrize(
    ("streamed", "body"),
    [
        (False, plain(usage={"input_tokens": "seven", "output_tokens": -1}, stop_reason=5)),
        (False, plain(usage=[7], model=5)),
        (True, sse(START, TEXT, SAID, {"type": "message_delta", "delta": {}, "usage": 7}, STOP)),
        (
            True,
            sse(START, TEXT, SAID, {"type": "message_delta", "delta": {"stop_reason": 5}}, STOP),
        ),
    ],
)
@pytest.mark.anyio
async def test_numbers_that_are_none_are_left_out(streamed: bool, body: bytes) -> None:
    whole = await given(body, streamed)
    assert whole.message.text in ("fine", "ok")
    assert (whole.usage, whole.finish_reason, whole.model) == (None, None, "m")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", LLMOverloadedError),
        ("api_error", LLMServerError),
        ("rate_limit_error", LLMRateLimitError),
        ("timeout_error", LLMTimeoutError),
        ("authentication_error", LLMAuthenticationError),
        ("billing_error", LLMQuotaError),
        ("invalid_request_error", LLMRequestError),
        ("an_error_of_the_future", LLMResponseError),
    ],
)
@pytest.mark.anyio
async def test_an_error_in_a_stream_is_the_one_that_it_names(
    kind: str, error: type[LLMError]
) -> None:
    event = {"type": "error", "error": {"type": kind, "message": "sk-canary"}}
    got = await given(sse(START, TEXT, SAID, event), True)
    assert type(got) is error
    assert f"({kind})" in str(got)
    assert got.status == 200
    shows_nothing(got)
