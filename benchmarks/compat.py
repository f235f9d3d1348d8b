"""A synchronous call of a coroutine, beside the other ways to make one.

    python -m benchmarks.compat            a table for people
    python -m benchmarks.compat --json     one JSON object
    python -m benchmarks.compat --quick    a few seconds

One thread calls a coroutine that does nothing: through a twin, as every method of
``asynchistory_compat`` does it; through ``BlockingPortal.call`` of AnyIO on an event loop
of the same kind; through synchronicity and asgiref, which know asyncio only. Each
kind of loop has a process of its own, the contenders take turns in short rounds, and
the figure of a round is the median of its calls. A ratio is the median over the rounds of
the ratios within one round, so that what else the machine does falls on both sides.

``item_over_portal`` is an item of a stream that has its items at hand, read by ``for``,
over one portal call; ``peek_over_portal`` what needs no event loop: the newest 20
records at level ``cached``, and an LLM instance that is there already (the worse of the
two). Without a loop's name they are the worse of asyncio and trio. ``append_adds_us`` is
what the bridge adds to one awaited append to a SQLite file, in microseconds.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from asynchistory import AsyncHistoryManager, Message, open_history
from asynchistory_compat import HistoryManager, LLMFactory, Stream, Twin, configure, mirror
from benchmarks._report import as_json, conditions, listing, options, table

LOOPS = ("asyncio", "trio", "uvloop")
#: Calls of each contender, streams, and items of each stream in a round.
CALLS, STREAMS, ITEMS = 200, 9, 1_000
ROUNDS, QUICK = 30, 5
PORTAL = "AnyIO BlockingPortal.call"
NAMES = {
    "call": "a twin's method",
    "portal": PORTAL,
    "synchronicity": "synchronicity",
    "asgiref": "asgiref async_to_sync",
    "item": "an item of a stream",
    "last": "history.last, held",
    "factory": "factory.get, held",
    "append": "an append",
    "awaited": "an append, awaited",
}
COLUMNS = {
    "name": "call", "loop": "loop", "median_us": "us", "over_portal": "over portal", "note": "note",
}  # fmt: skip
Contender = Callable[[], float]


class Trivial:
    """What is called."""

    async def work(self) -> int:
        return 1


class TrivialTwin(Twin[Trivial]):
    """Its synchronous form."""

    work = mirror(Trivial.work)


class Numbers:
    """A stream that has its items at hand."""

    async def __aenter__(self) -> AsyncIterator[int]:
        async def items() -> AsyncIterator[int]:
            for number in range(ITEMS):
                yield number

        return items()

    async def __aexit__(self, *exc: object) -> None:
        pass


def median_of(call: Callable[[], object], times: int = CALLS) -> Contender:
    """The median of some calls, in seconds."""

    def measure() -> float:
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    return measure


def read_all() -> None:
    """One stream from its beginning to its end."""
    with Stream[Any, int](Numbers()) as numbers:
        assert sum(1 for _ in numbers) == ITEMS


def item() -> float:
    """What an item of a stream takes, its share of opening and closing included."""
    return median_of(read_all, STREAMS)() / ITEMS


def awaited(portal: BlockingPortal, manager: AsyncHistoryManager) -> Contender:
    """The median of some appends that are awaited one after the other."""

    async def work() -> float:
        taken = []
        for _ in range(CALLS):
            start = time.perf_counter()
            await manager.append("awaited", Message.of("user", "x" * 500))
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    return lambda: portal.call(work)


def peers() -> dict[str, Callable[[], object]]:
    """Those that are installed."""
    found: dict[str, Callable[[], object]] = {}
    work = Trivial().work
    try:
        found["asgiref"] = importlib.import_module("asgiref.sync").async_to_sync(work)
        module: Any = importlib.import_module("synchronicity")
        found["synchronicity"] = module.Synchronizer().wrap(Trivial, "Blocking", __name__)().work
    except ImportError:
        pass  # its rows say so
    return found


@contextmanager
def contenders(loop: str, folder: Path) -> Iterator[dict[str, Contender]]:
    """What is measured on a loop of this kind, each a measurement in seconds."""
    configure(backend=loop)  # type: ignore[arg-type]
    library, uvloop = ("trio", False) if loop == "trio" else ("asyncio", loop == "uvloop")
    manager = open_history(folder / "history.db", level="cached")
    work, trivial, factory = Trivial().work, TrivialTwin(Trivial()), LLMFactory()
    with (
        start_blocking_portal(library, {"use_uvloop": True} if uvloop else {}) as portal,
        HistoryManager(manager) as history,
    ):
        history.append("held", *[Message.of("user", "x" * 500) for _ in range(50)])
        history.last("held", 20)
        factory.get("scripted", "echo")
        others = peers() if loop == "asyncio" else {}
        yield {
            "portal": median_of(lambda: portal.call(work)),
            "call": median_of(trivial.work),
            **{name: median_of(call) for name, call in others.items()},
            "item": item,
            "last": median_of(lambda: history.last("held", 20)),
            "factory": median_of(lambda: factory.get("scripted", "echo")),
            "append": median_of(lambda: history.append("sync", Message.of("user", "x" * 500))),
            "awaited": awaited(portal, manager),
        }


def measure(loop: str, rounds: int, folder: str | None) -> dict[str, list[float]]:
    """The figures of each contender, a round each, in turns."""
    figures: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        contenders(loop, Path(place)) as found,
    ):
        for number in range(rounds + 1):
            for name, contender in found.items():
                figure = contender()
                if number:  # the first round warms up
                    figures.setdefault(name, []).append(figure)
    return figures


def in_a_process(loop: str, rounds: int, folder: str | None) -> dict[str, list[float]]:
    """The same in a process of its own: one process has one bridge."""
    command = [sys.executable, "-m", "benchmarks.compat", "--loop", loop, "--rounds", str(rounds)]
    if folder is not None:
        command += ["--folder", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, list[float]] = json.loads(done.stdout)
    return figures


def ratio(figures: dict[str, list[float]], name: str, other: str) -> float:
    """The median of one over the other, round by round."""
    pairs = zip(figures[name], figures[other], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def rows_of(loop: str, figures: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What there was to measure on this loop."""
    rows: list[dict[str, Any]] = []
    for name, label in NAMES.items():
        if name in figures:
            median = round(statistics.median(figures[name]) * 1e6, 2)
            over = round(ratio(figures, name, "portal"), 4)
            rows.append({"name": label, "loop": loop, "median_us": median, "over_portal": over})
        elif loop == "asyncio":
            rows.append({"name": label, "loop": loop, "note": "not installed"})
    return rows


def ratios_of(loop: str, figures: dict[str, list[float]]) -> dict[str, float]:
    """The figures that the docs name."""
    adds = zip(figures["append"], figures["awaited"], strict=True)
    ratios = {
        f"call_over_portal.{loop}": ratio(figures, "call", "portal"),
        f"item_over_portal.{loop}": ratio(figures, "item", "portal"),
        f"peek_over_portal.{loop}": max(
            ratio(figures, "last", "portal"), ratio(figures, "factory", "portal")
        ),
        f"append_over_awaited.{loop}": ratio(figures, "append", "awaited"),
        f"append_adds_us.{loop}": statistics.median(mine - theirs for mine, theirs in adds) * 1e6,
    }
    for name in ("synchronicity", "asgiref"):
        if name in figures:
            ratios[f"call_over_{name}"] = ratio(figures, "call", name)
    return ratios


def main() -> int:
    parser = options("compat", __doc__)
    parser.add_argument("--loop", choices=LOOPS, help="print the raw figures of this loop alone")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (QUICK if chosen.quick else ROUNDS)
    if chosen.loop:
        print(json.dumps(measure(chosen.loop, rounds, chosen.folder)))
        return 0
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for loop in LOOPS:
        figures = in_a_process(loop, rounds, chosen.folder)
        rows += rows_of(loop, figures)
        ratios |= ratios_of(loop, figures)
    for name in ("item_over_portal", "peek_over_portal"):
        ratios[name] = max(ratios[f"{name}.asyncio"], ratios[f"{name}.trio"])
    if chosen.json:
        print(as_json("compat", ratios, rows))
    else:
        print(f"{table(rows, COLUMNS)}\n\n{listing(ratios)}\n")
        print(conditions(chosen.folder, start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
