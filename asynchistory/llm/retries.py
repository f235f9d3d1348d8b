"""When a request that failed is sent again: the rules of OpenAI's and Anthropic's own clients.

They hang on the headers of the answer. Beside them a library for retries would be left with
a loop of five lines, which is in :mod:`asynchistory.llm.client`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from asynchistory.errors import LLMError

#: How often a request is sent again that failed before anything was answered.
MAX_RETRIES = 2
#: Seconds before it is sent again: the first time, at most, and at most if the server says it.
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 8.0, 120.0


def wait_before_retry(
    error: LLMError, max_retries: int, chance: Callable[[], float] = random.random
) -> float | None:
    """Seconds to wait before a request is sent again, None if it shall not be.

    Args:
        error: what became of it, after ``error.attempts`` attempts.
        max_retries: how often it may be sent again.
        chance: gives a number from 0 to 1; the wait is up to a quarter shorter by it.
    """
    asked = error.retry_after
    if error.attempts > max_retries or not error.retryable:
        return None
    if asked is not None and asked > LONGEST_ASKED:
        return None
    if asked:
        return asked
    doubled: float = FIRST_WAIT * 2 ** min(error.attempts - 1, 10)
    return min(doubled, LONGEST_WAIT) * (1 - 0.25 * chance())
