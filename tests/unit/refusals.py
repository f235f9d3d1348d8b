"""How the tests of bad input look at an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from asynchistory import AsyncHistoryError

#: Stands for what a user said. It must not turn up in any error.
CANARY = "cAnArY-7741"


def everything(error: BaseException | None) -> str:
    """All that a log would show of an error: its message, attributes, causes and notes."""
    text = ""
    while error is not None:
        text += f"{error!s} {error!r} {vars(error)} {getattr(error, '__notes__', '')}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


async def refuse(
    call: Callable[[], Awaitable[object]], error: type[AsyncHistoryError], remedy: str
) -> None:
    with pytest.raises(error, match=remedy) as caught:
        await call()
    assert CANARY not in everything(caught.value)
    assert len(str(caught.value)) < 400
