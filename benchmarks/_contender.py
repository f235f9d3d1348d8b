"""What all contenders of the write benchmarks share: the message, and how they are driven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

SESSIONS = 100
TEXT = ("The quick brown fox jumps over the lazy dog. " * 12)[:480]
ITEM: Any = {"role": "user", "content": TEXT}

#: Appends the message to the session of this number, and returns when it is stored.
Append = Callable[[int], Awaitable[Any]]
Run = Callable[[Append], Awaitable[None]]
#: ``work(path, sessions, run)`` opens a file, hands ``run`` its append, and closes the file.
Work = Callable[[Path, int, Run], Awaitable[None]]


def nothing() -> None:
    """The check of a contender that is always there."""


class Contender(NamedTuple):
    """A way to append messages durably, on one event loop."""

    name: str
    work: Work
    note: str = ""
    #: Raises ImportError if a package is missing.
    check: Callable[[], object] = nothing
    #: A product that people use for this. A plain loop is shown and is not counted as a peer.
    product: bool = False
    loop: str = "asyncio"
    ours: bool = False


def names(sessions: int) -> list[str]:
    """The ids of the sessions."""
    return [f"chat-{number}" for number in range(sessions)]


def missing(check: Callable[[], object]) -> str | None:
    """Why a contender cannot take part; None if it can."""
    try:
        check()
    except ImportError as error:
        return f"skipped: {error.name or 'a package of it'} is not installed"
    return None
