"""Reading a watch, for the tests of it."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from asynchistory import Watch


async def take(records: Watch, count: int, *, within: float = 20) -> list[int]:
    """The seqs of the next records."""
    with anyio.fail_after(within):
        return [(await anext(records)).seq for _ in range(count)]


async def has_none(records: Watch, seconds: float = 0.15) -> bool:
    with anyio.move_on_after(seconds) as scope:
        await anext(records)
    return scope.cancelled_caught


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)
