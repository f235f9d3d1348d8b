"""Spring one trap, in this process.

    python -m tests.compat.trapping NAME BACKEND FOLDER

A trap is a situation in which synchronous calls of async code hang, crash or lie. It says what it
saw, line by line; ``test_traps.py`` knows what it should.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from asynchistory_compat import configure

#: A folder of the trap's own.
FOLDER = Path(sys.argv[3])


def say(*words: object) -> None:
    print(*words, flush=True)


def failure(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def name_of(call: Callable[[], object]) -> str:
    error = failure(call)
    return "nothing" if error is None else type(error).__name__


async def answer() -> int:
    await anyio.lowlevel.checkpoint()
    return 42


if __name__ == "__main__":
    from tests.compat import traps, traps_outcomes

    os.environ["ASYNCHISTORY_URL"] = str(FOLDER / "env.db")
    configure(backend=sys.argv[2])  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    traps_of = vars(traps) | vars(traps_outcomes)
    traps_of[sys.argv[1]]()
