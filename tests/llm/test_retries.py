"""Requests that are sent again: when, after how long, and when not."""

from __future__ import annotations

import socket
from collections import Counter
from importlib import import_module
from typing import Any

import anyio
import pytest

from asynchistory import (
    ConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMOverloadedError,
    LLMQuotaError,
    LLMRateLimitError,
    LLMServerError,
    LLMTimeoutError,
    RateLimit,
    RateLimits,
    open_history,
)
from asynchistory.llm.anthropic import AnthropicClient
from asynchistory.llm.client import HTTPClient
from asynchistory.llm.headers import rate_limits, retry_after
from asynchistory.llm.http import HTTPError, Response
from asynchistory.llm.key import ClientKey
from asynchistory.llm.openai import OpenAIClient
from asynchistory.llm.problems import problem
from asynchistory.llm.retries import wait_before_retry
from asynchistory.testing import Fault, LoopbackLLM, Reply
from tests.llm.asking import BOTH_FORMATS, BOTH_WAYS, HI, KEY, ask
from tests.llm.talking import stored, talk_to, turn

pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

CLIENTS: dict[str, type[HTTPClient]] = {"openai": OpenAIClient, "anthropic": AnthropicClient}


class Clock:
    """Time that passes at once; ``waits`` is what was waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def connect(provider: str, url: str, clock: Clock, **options: Any) -> HTTPClient:
    key = ClientKey(provider, "m", base_url=url)
    return CLIENTS[provider](key, api_key=lambda: KEY, options=options, pause=clock.sleep)


async def failure(client: HTTPClient, streamed: bool) -> LLMError:
    with anyio.fail_after(30), pytest.raises(LLMError) as caught:
        await ask(client, streamed)
    return caught.value


# -- when, and after how long


def failed(**facts: Any) -> LLMError:
    attempts = facts.pop("attempts", 1)
    error = LLMError("x", **{"retryable": True, **facts})
    error.attempts = attempts
    return error


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (failed(), 0.5),
        (failed(attempts=2), 1.0),
        (failed(attempts=5), 8.0),
        (failed(attempts=9999), 8.0),
        (failed(attempts=10_000), None),
        (failed(retryable=False), None),
        (failed(retry_after=0.02, attempts=5), 0.02),
        (failed(retry_after=120), 120),
        (failed(retry_after=120.5), None),
        (failed(retry_after=float("inf")), None),
        (failed(retry_after=0, attempts=2), 1.0),
    ],
)
def test_the_wait_before_a_retry(error: LLMError, wait: float | None) -> None:
    assert wait_before_retry(error, 9999, lambda: 0.0) == wait
    jittered = wait_before_retry(error, 9999, lambda: 1.0)
    assert jittered == (wait if wait is None or error.retry_after else wait * 0.75)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9"}, 9),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, float("inf")),
        (
            {
                "retry-after": "Thu, 26 Nov 2026 07:00:30 GMT",
                "date": "Thu, 26 Nov 2026 07:00:00 GMT",
            },
            30,
        ),
        (
            {
                "retry-after": "Thu, 26 Nov 2026 06:00:00 GMT",
                "date": "Thu, 26 Nov 2026 07:00:00 -0000",
            },
            0,
        ),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
    ],
)
def test_what_the_server_says_of_waiting(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_rate_limits_of_both_providers() -> None:
    assert rate_limits({"x-ratelimit-limit": "5"}) is None
    assert rate_limits(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m0.5s",
            "x-ratelimit-remaining-tokens": "many",
            "x-ratelimit-reset-tokens": "20ms",
        }
    ) == RateLimits(requests=RateLimit(60, 0, 60.5), tokens=RateLimit(None, None, 0.02))
    assert rate_limits(
        {
            "date": "Thu, 26 Nov 2026 07:00:00 GMT",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-11-26T07:00:01.2Z",
            "anthropic-ratelimit-input-tokens-remaining": "1000",
            "anthropic-ratelimit-output-tokens-reset": "0001-01-01",
            "anthropic-ratelimit-tokens-reset": "2026-11-26T06:00:00Z",
        }
    ) == RateLimits(
        requests=RateLimit(50, 49, pytest.approx(1.2)),
        tokens=RateLimit(resets_in=0),
        input_tokens=RateLimit(remaining=1000),
    )


@pytest.mark.parametrize(
    ("name", "kind", "again"),
    [
        ("ConnectError", LLMConnectionError, True),
        ("RemoteProtocolError", LLMConnectionError, True),
        ("LocalProtocolError", LLMConnectionError, False),
        ("ConnectTimeout", LLMTimeoutError, True),
        ("ReadTimeout", LLMTimeoutError, False),  # the model may be at work on it
    ],
)
def test_which_failures_of_a_connection_are_tried_again(
    name: str, kind: type[LLMError], again: bool
) -> None:
    error = getattr(import_module(HTTPError.__module__.partition(".")[0]), name)("x")
    with pytest.raises(kind) as caught, problem("openai"):
        raise error
    assert caught.value.retryable == again
    with pytest.raises(LLMError) as caught, problem("openai", Response(200)):
        raise error
    assert not caught.value.retryable  # in the middle of an answer


# -- over the wire


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_an_answer_at_the_third_attempt(provider: str, streamed: bool) -> None:
    script = [Fault.rate_limited(2), Fault.overloaded(), Reply("At last.")]
    clock = Clock()
    with LoopbackLLM(script) as server:
        whole, _ = await ask(connect(provider, server.url, clock), streamed)
        assert server.count == 3
    assert (whole.message.text, whole.attempts, whole.request_id) == ("At last.", 3, "req_3")
    assert clock.waits[0] == 2
    assert 0.75 <= clock.waits[1] <= 1.0


@BOTH_FORMATS
@pytest.mark.parametrize("retries", [0, 1, 2, 5])
@pytest.mark.anyio
async def test_it_gives_up_after_so_many_retries(provider: str, retries: int) -> None:
    clock = Clock()
    options = {} if retries == 2 else {"max_retries": retries}  # 2 is the default
    with LoopbackLLM(Fault.server_error()) as server:
        client = connect(provider, server.url, clock, **options)
        error = await failure(client, True)
        assert server.count == retries + 1
        assert "max_retries" not in server.requests[0].body
    assert type(error) is LLMServerError
    assert (error.attempts, error.request_id) == (retries + 1, f"req_{retries + 1}")
    assert len(clock.waits) == retries


RIGHT_AWAY = {"retry-after-ms": "1"}
TRIED_AGAIN: dict[str, Fault] = {
    "408": Fault.status(408),
    "409": Fault.status(409),
    "429": Fault.rate_limited(),
    "500": Fault.server_error(),
    "503": Fault.unavailable(),
    "529": Fault.overloaded(),
    "told": Fault.status(400, headers={"x-should-retry": "true"}),
    "hang up": Fault.hang_up(),
    "two minutes": Fault.status(429, headers={"retry-after": "120"}),
}
NOT_TRIED_AGAIN: dict[str, tuple[Fault, type[LLMError]]] = {
    "told": (Fault.status(500, headers={"x-should-retry": "false"}), LLMServerError),
    "quota": (Fault.quota_exhausted(), LLMQuotaError),
    "quota though told": (
        Fault.status(429, code="insufficient_quota", headers={"x-should-retry": "true"}),
        LLMQuotaError,
    ),
    "balance": (Fault.status(429, code="credit_balance_exhausted"), LLMQuotaError),
    "project": (Fault.status(429, code="project_spend_limit_exceeded"), LLMQuotaError),
    "contract": (Fault.status(429, code="contract_spend_limit_reached"), LLMQuotaError),
    "billing": (Fault.status(402), LLMQuotaError),
    "too long": (Fault.status(429, headers={"retry-after": "121"}), LLMRateLimitError),
    "too long though told": (
        Fault.status(529, headers={"retry-after": "121", "x-should-retry": "true"}),
        LLMOverloadedError,
    ),
    "400": (Fault.status(400), LLMError),
    "401": (Fault.unauthorized(), LLMError),
    "404": (Fault.status(404), LLMError),
    "malformed": (Fault.malformed(), LLMError),
    "cut": (Fault.cut(after=0), LLMError),
    "error event": (Fault.error_event(after=1), LLMServerError),
}


@BOTH_FORMATS
@pytest.mark.parametrize("name", sorted(TRIED_AGAIN))
@pytest.mark.anyio
async def test_what_is_tried_again(provider: str, name: str) -> None:
    with LoopbackLLM([TRIED_AGAIN[name], Reply("fine")]) as server:
        whole, _ = await ask(connect(provider, server.url, Clock()), True)
    assert (whole.message.text, whole.attempts, server.count) == ("fine", 2, 2)


@BOTH_FORMATS
@pytest.mark.parametrize("name", sorted(NOT_TRIED_AGAIN))
@pytest.mark.anyio
async def test_what_is_not_tried_again(provider: str, name: str) -> None:
    fault, kind = NOT_TRIED_AGAIN[name]
    clock = Clock()
    with LoopbackLLM([fault, Reply("not reached")]) as server:
        error = await failure(connect(provider, server.url, clock), True)
        assert server.count == 1
    assert isinstance(error, kind)
    assert (error.attempts, clock.waits) == (1, [])


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_a_server_that_nobody_runs(provider: str, streamed: bool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # the port is ours, and nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        error = await failure(connect(provider, url, Clock()), streamed)
    assert (type(error), error.attempts, error.status) == (LLMConnectionError, 3, None)


@BOTH_FORMATS
@pytest.mark.anyio
async def test_the_error_has_the_rate_limits(provider: str) -> None:
    names = {
        "openai": ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        "anthropic": (
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ),
    }
    headers = dict(zip(names[provider], ("0", "7"), strict=True))
    with LoopbackLLM(Fault.status(429, headers=headers)) as server:
        error = await failure(connect(provider, server.url, Clock(), max_retries=0), True)
    assert error.limits == RateLimits(requests=RateLimit(None, 0, 7))


@BOTH_FORMATS
@BOTH_WAYS
@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_sends_nothing_more(provider: str, streamed: bool) -> None:
    waiting = anyio.Event()

    class Stopped(Clock):
        async def sleep(self, seconds: float) -> None:
            waiting.set()
            await anyio.sleep_forever()

    with LoopbackLLM([Fault.server_error(), Reply("not reached")]) as server:
        client = connect(provider, server.url, Stopped())
        async with anyio.create_task_group() as group:
            group.start_soon(ask, client, streamed, HI)
            await waiting.wait()
            group.cancel_scope.cancel()
        assert server.count == 1


def test_the_number_of_retries_is_checked() -> None:
    for wrong in (-1, 1.5, "2", None, True):
        with pytest.raises(ConfigurationError, match="max_retries"):
            connect("openai", "https://example.com", Clock(), max_retries=wrong)


@BOTH_FORMATS
@pytest.mark.anyio
async def test_a_conversation_records_one_request(provider: str) -> None:
    script = [Fault.rate_limited(), Reply("fine"), *[Fault.rate_limited()] * 3]
    with LoopbackLLM(script) as server:
        async with (
            open_history("memory://") as history,
            talk_to(server, history, provider=provider) as conversation,
        ):
            await turn(conversation)
            with pytest.raises(LLMRateLimitError):
                await turn(conversation)
            records = await stored(history)
            tokens = await history.get_token_statistics("chat")
    kinds = Counter(record.record_type for record in records)
    assert (kinds["llm_request"], kinds["llm_response"], kinds["token_usage"]) == (2, 2, 1)
    responses = [record for record in records if record.record_type == "llm_response"]
    assert [record.metadata["attempts"] for record in responses] == [2, 3]
    assert (tokens.calls, tokens.unknown_calls) == (1, 1)
    assert server.count == 5
