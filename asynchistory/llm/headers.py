"""What the headers of an answer say of waiting and of rate limits."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from asynchistory.errors import RateLimit, RateLimits

#: OpenAI's durations, such as ``6m0s`` and ``20ms``.
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before trying again; None if the answer does not say."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and (date := _http_date(value)) is not None:
        seconds = date - _now(headers)
    return None if seconds is None else max(0.0, seconds)


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """The limits of OpenAI's ``x-ratelimit-*`` or Anthropic's ``anthropic-ratelimit-*``."""
    limits = RateLimits(*(_limit(headers, name.replace("_", "-")) for name in RateLimits._fields))
    return None if limits == RateLimits() else limits


def _limit(headers: Mapping[str, str], name: str) -> RateLimit | None:
    def value(fact: str) -> str | None:
        theirs = headers.get(f"anthropic-ratelimit-{name}-{fact}")
        return headers.get(f"x-ratelimit-{fact}-{name}") if theirs is None else theirs

    limit = RateLimit(
        _whole(value("limit")), _whole(value("remaining")), _resets_in(value("reset"), headers)
    )
    return None if limit == RateLimit() else limit


def _resets_in(value: str | None, headers: Mapping[str, str]) -> float | None:
    if value is None:
        return None
    if _DURATION.fullmatch(value):
        parts = _DURATION_PART.findall(value)
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    number = _number(value)
    if number is not None:
        return max(0.0, number)
    try:
        moment = datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - _now(headers))


def _now(headers: Mapping[str, str]) -> float:
    """The server's time at the answer: its dates are by its own clock."""
    date = _http_date(headers.get("date"))
    return time.time() if date is None else date


def _http_date(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,18}", value) else None
