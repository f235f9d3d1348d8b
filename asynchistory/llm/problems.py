"""What went wrong on the way to a model, as errors of ours: without content and without keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from asynchistory.errors import (
    InvalidInputError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
)
from asynchistory.llm.http import HTTPError, Response, TimeoutException

#: An error's code, such as ``insufficient_quota``. Its message may quote the request or the key.
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,63}")

#: What tells more than the status, and stands alone where an error comes inside a stream.
_BY_CODE: dict[str, tuple[type[LLMError], str]] = {
    "insufficient_quota": (
        LLMRateLimitError,
        "the credit is spent; trying again does not help",
    ),
    "rate_limit_exceeded": (LLMRateLimitError, "wait and try again"),
    "server_error": (LLMServerError, "try again"),
}
_MALFORMED = (
    InvalidInputError,
    msgspec.MsgspecError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    RecursionError,
)


def facts(provider: str, response: Response | None) -> dict[str, Any]:
    """What an error says of the answer it is about."""
    if response is None:
        return {"provider": provider}
    request_id = response.headers.get("x-request-id")
    return {"provider": provider, "status": response.status_code, "request_id": request_id}


@contextmanager
def problem(provider: str, response: Response | None = None) -> Iterator[None]:
    """Turn what httpx and a malformed answer raise into errors of ours."""
    known = facts(provider, response)
    try:
        yield
    except LLMError:
        raise
    except TimeoutException as error:
        raise LLMTimeoutError(
            f"{provider} did not answer in time ({type(error).__name__}); "
            "try again, or give it a longer timeout",
            **known,
        ) from None
    except HTTPError as error:
        if response is not None:
            raise LLMResponseError(
                f"{provider} hung up in the middle of its answer; ask again", **known
            ) from None
        raise LLMConnectionError(
            f"{provider} could not be reached ({type(error).__name__}); check base_url and network",
            **known,
        ) from None
    except _MALFORMED as error:
        raise LLMResponseError(
            f"{provider} sent a malformed answer ({type(error).__name__}); check base_url", **known
        ) from None


def refusal(provider: str, response: Response, body: bytes | dict[str, Any]) -> LLMError:
    """The error of an answer that is one."""
    status = response.status_code
    code = _code(body)
    kind, advice = _kind(status, code)
    return kind(
        f"{provider} answered {status}{f' ({code})' if code else ''}; {advice}",
        **facts(provider, response),
        retry_after=_seconds(response.headers.get("retry-after")),
    )


def _kind(status: int, code: str) -> tuple[type[LLMError], str]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in (401, 403):
        return LLMAuthenticationError, "check the API key"
    if status == 429:
        return LLMRateLimitError, "wait and try again"
    if status == 404:
        return LLMRequestError, "check base_url and the model's name"
    if 400 <= status < 500:
        return LLMRequestError, "the request is not acceptable as it is"
    if status >= 500:
        return LLMServerError, "try again"
    return LLMResponseError, "check base_url"


def _code(body: bytes | dict[str, Any]) -> str:
    try:
        data = msgspec.json.decode(body) if isinstance(body, bytes) else body
        error = data["error"]
        code = error.get("code") or error.get("type") or ""
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
