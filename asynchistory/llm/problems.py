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
    LLMOverloadedError,
    LLMQuotaError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
)
from asynchistory.llm.headers import rate_limits, retry_after
from asynchistory.llm.http import UNANSWERED, HTTPError, Response, TimeoutException

#: An error's code, such as ``insufficient_quota``. Its message may quote the request or the key.
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,63}")
#: Codes of OpenAI and Anthropic that say that only money or an administrator helps.
_SPENT = re.compile(
    r"insufficient_quota|credit_balance_exhausted|billing_\w+|\w*billing_unavailable"
    r"|\w*spend_limit_(exceeded|reached)"
)
#: What an error inside a stream would have been as a status.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
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


def request_id(response: Response) -> str | None:
    """The provider's id of the request: OpenAI's ``x-request-id``, Anthropic's ``request-id``."""
    found: str | None = response.headers.get("x-request-id", response.headers.get("request-id"))
    return found


def facts(provider: str, response: Response | None) -> dict[str, Any]:
    """What an error says of the answer it is about."""
    if response is None:
        return {"provider": provider}
    return {
        "provider": provider,
        "status": response.status_code,
        "request_id": request_id(response),
    }


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
            retryable=response is None and isinstance(error, UNANSWERED),
        ) from None
    except HTTPError as error:
        if response is not None:
            raise LLMResponseError(
                f"{provider} hung up in the middle of its answer; ask again", **known
            ) from None
        raise LLMConnectionError(
            f"{provider} could not be reached ({type(error).__name__}); check base_url and network",
            **known,
            retryable=isinstance(error, UNANSWERED),
        ) from None
    except _MALFORMED as error:
        raise LLMResponseError(
            f"{provider} sent a malformed answer ({type(error).__name__}); check base_url", **known
        ) from None


def refusal(provider: str, response: Response, body: bytes | dict[str, Any]) -> LLMError:
    """The error of an answer that is one, or that has one in its stream."""
    codes, status = _codes(body), response.status_code
    if status == 200:
        status = next((_STATUS[code] for code in codes if code in _STATUS), status)
    spent = status == 402 or any(map(_SPENT.fullmatch, codes))
    kind, advice = _SPENT_KIND if spent else _kind(status)
    how = f"answered {status}" if response.status_code != 200 else "broke off its answer"
    code = f" ({codes[0]})" if codes else ""
    return kind(
        f"{provider} {how}{code}; {advice}",
        **facts(provider, response),
        retry_after=retry_after(response.headers),
        limits=rate_limits(response.headers),
        retryable=not spent and _retryable(status, response.headers.get("x-should-retry")),
    )


def _retryable(status: int, told: str | None) -> bool:
    if told in ("true", "false"):
        return told == "true"
    return status in (408, 409, 429) or status >= 500


_SPENT_KIND: tuple[type[LLMError], str] = (
    LLMQuotaError,
    "the credit is spent or a spending limit is reached; trying again does not help",
)


def _kind(status: int) -> tuple[type[LLMError], str]:
    if status in (401, 403):
        return LLMAuthenticationError, "check the API key"
    if status in (408, 504):
        return LLMTimeoutError, "try again"
    if status == 429:
        return LLMRateLimitError, "wait and try again"
    if status == 404:
        return LLMRequestError, "check base_url and the model's name"
    if 400 <= status < 500:
        return LLMRequestError, "the request is not acceptable as it is"
    if status == 529:
        return LLMOverloadedError, "wait and try again"
    if status >= 500:
        return LLMServerError, "try again"
    return LLMResponseError, "check base_url"


def _codes(body: bytes | dict[str, Any]) -> list[str]:
    """The codes that an error carries, the most telling one first."""
    try:
        error = (msgspec.json.decode(body) if isinstance(body, bytes) else body)["error"]
        details = error.get("details")
        exact = details.get("error_code") if isinstance(details, dict) else None
        codes = [exact, error.get("code"), error.get("type")]
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError, RecursionError):
        return []
    return [code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)]
