"""What went wrong on the way to a model, as errors of ours: without content and without keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from asynchistory.errors import (
    AsyncHistoryError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
)
from asynchistory.llm.http import HTTPError, RemoteProtocolError, Response, TimeoutException

#: An error's code, such as ``insufficient_quota``. Its message may quote the request or the key.
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,63}")


@contextmanager
def problem(provider: str, response: Response | None = None) -> Iterator[None]:
    """Turn what httpx and a malformed answer raise into errors of ours."""
    facts: dict[str, Any] = {"provider": provider}
    if response is not None:
        facts |= {
            "status": response.status_code,
            "request_id": response.headers.get("x-request-id"),
        }
    try:
        yield
    except AsyncHistoryError:
        raise
    except TimeoutException as error:
        raise LLMTimeoutError(
            f"{provider} did not answer in time ({type(error).__name__}); "
            "try again, or give it a longer timeout",
            **facts,
        ) from None
    except RemoteProtocolError:
        raise LLMResponseError(
            f"{provider} hung up in the middle of its answer; ask again", **facts
        ) from None
    except HTTPError as error:
        raise LLMConnectionError(
            f"{provider} could not be reached ({type(error).__name__}); check base_url and network",
            **facts,
        ) from None
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise LLMResponseError(
            f"{provider} sent a malformed answer ({type(error).__name__}); check base_url", **facts
        ) from None


def refusal(provider: str, response: Response, body: bytes | dict[str, Any]) -> LLMError:
    """The error of an answer that is one."""
    status = response.status_code
    code = _code(body)
    kind, advice = _kind(status, code)
    return kind(
        f"{provider} answered {status}{f' ({code})' if code else ''}; {advice}",
        provider=provider,
        status=status,
        request_id=response.headers.get("x-request-id"),
        retry_after=_seconds(response.headers.get("retry-after")),
    )


def _kind(status: int, code: str) -> tuple[type[LLMError], str]:
    if status in (401, 403):
        return LLMAuthenticationError, "check the API key"
    if code == "insufficient_quota":
        return LLMRateLimitError, "the credit is spent; trying again does not help"
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
