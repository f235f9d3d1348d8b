"""One client, used from loops one after another and at once. A child does it, and counts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from tests.faults.children import say

#: Asks with this text and returns the answer's.
Ask: TypeAlias = Callable[[str], Awaitable[str]]
RUNS: dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),  # type: ignore[arg-type]
    "trio": trio.run,
}


class ManyLoops:
    """The calls of one client, and what came of them; ``loops`` are their kinds, in turn."""

    def __init__(self, ask: Ask, loops: str = "asyncio trio") -> None:
        self._ask = ask
        self._kinds = [RUNS[kind] for kind in loops.split()]
        self._lock = threading.Lock()
        self.found: Counter[str] = Counter(calls=0, answered=0, wrong=0)
        self.errors: Counter[str] = Counter()

    def one_after_another(self, runs: int, calls: int) -> None:
        for number in range(runs):
            self._run(number, calls)

    def at_once(self, loops: int, calls: int) -> None:
        """All loops are alive before the first asks, and until the last has asked."""
        barrier = threading.Barrier(loops)
        threads = [
            threading.Thread(target=self._run, args=(number, calls, barrier))
            for number in range(loops)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, number: int, calls: int, barrier: threading.Barrier | None = None) -> None:
        async def main() -> None:
            if barrier is not None:
                barrier.wait(30)
            for call in range(calls):
                await self._call(f"{threading.get_ident()} asks {number}.{call}")
            if barrier is not None:
                barrier.wait(30)

        try:
            self._kinds[number % len(self._kinds)](main)
        except BaseException as error:  # what a client does to a loop that is not its own
            self._note(error)

    async def _call(self, question: str) -> None:
        with self._lock:
            self.found["calls"] += 1
        try:
            answer = await self._ask(question)
        except Exception as error:
            self._note(error)
            return
        with self._lock:
            self.found["answered" if answer.endswith(question) else "wrong"] += 1

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self.errors[f"{error!r} from {error.__cause__!r}"] += 1

    def tell(self) -> None:
        say(json.dumps({**self.found, "errors": self.errors.total(), "of": dict(self.errors)}))
