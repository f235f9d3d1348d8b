"""Durable appends of ~500-byte messages: a hundred tasks at once, and one task alone.

    python -m benchmarks.append            a table for people
    python -m benchmarks.append --json     one JSON object
    python -m benchmarks.append --quick    a few seconds

Every contender writes to a new file with WAL and synchronous=FULL: an append
counts once it has returned and is durable. The rounds are interleaved, and
begin with another contender each time, so that what else the machine does falls
on all alike. The table has the medians of the rounds.

*A hundred tasks*, each with a session of its own: a round's appends over its
time. The limit is SQLite itself in one thread: the same texts over the same 100
sessions into a plain table with a unique (session, seq) index, 100 rows a
transaction, and nobody to wake.

*One task* with one session: what one awaited append takes. The raw commit
beside it is BEGIN IMMEDIATE, one insert into the same plain table, and COMMIT.

The fastest peer is the fastest of the products under a hundred tasks; plain
loops over aiosqlite are shown beside them. Ours stands there three times: as it
comes; with an idempotency key on every append; and with the tail of every
session in the cache, so that each append also brings one up to date.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._ours import HELD, KEYED, LOOPS, OURS, contenders
from benchmarks._peers import PEERS
from benchmarks._report import as_json, conditions, listing, options, positive, table, times
from benchmarks._rounds import Commits, Groups, Library, Result

LIMIT = "limit"
RAW = "raw commit"
#: Which ratio to the limit each of ours gives.
RATIOS = {OURS: "vs_limit", KEYED: "keyed_vs_limit", HELD: "held_vs_limit"}
COLUMNS = {
    "name": "contender", "loop": "loop", "median": "appends/s", "p50_ms": "p50 ms",
    "p99_ms": "p99 ms", "alone_p50_ms": "alone p50", "alone_p99_ms": "alone p99",
    "errors": "errors", "note": "note",
}  # fmt: skip


def everyone() -> list[Result]:
    results: list[Result] = [Library(contender) for contender in contenders()]
    results.append(Groups(LIMIT, "apsw in one thread, 100 rows a transaction"))
    results.append(Commits(RAW, "apsw in one thread, a row a transaction"))
    return results + [Library(contender) for contender in PEERS]


def measure(rounds: int, seconds: float, alone: float, folder: str | None) -> list[Result]:
    results = everyone()
    for number in range(rounds):
        first = number % len(results)
        for result in results[first:] + results[:first]:
            one_round(result, seconds, alone, folder)
    return results


def one_round(result: Result, seconds: float, alone: float, folder: str | None) -> None:
    """Both measures of one contender; a peer that fails is left out from then on."""
    for work, duration in ((result.crowd, seconds), (result.single, alone)):
        if result.failure is not None:
            return
        gc.collect()
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
            try:
                work(Path(place), duration)
            except Exception as error:
                if not (isinstance(result, Library) and not result.contender.ours):
                    raise
                result.failure = f"{type(error).__name__} in a round"


def fastest_peer(results: list[Result]) -> Result | None:
    """The fastest of the products that we compare with."""
    peers = [result for result in results if result.product and result.rates]
    return max(peers, key=lambda result: result.rate, default=None)


def ratios(results: list[Result]) -> dict[str, float]:
    """Ours to the fastest peer, and to what SQLite itself can do."""
    found = {(result.name, result.loop): result for result in results}
    fastest = fastest_peer(results)
    ratios = {}
    if fastest is not None:
        for loop in LOOPS:
            ratios[f"vs_fastest_peer.{loop}"] = found[OURS, loop].rate / fastest.rate
    for name, ratio in RATIOS.items():
        for loop in LOOPS:
            ratios[f"{ratio}.{loop}"] = found[name, loop].rate / found[LIMIT, None].rate
    for loop in LOOPS:
        latency = found[OURS, loop].latency / found[RAW, None].latency
        ratios[f"latency_over_raw.{loop}"] = latency
    return ratios


def main(arguments: list[str] | None = None) -> int:
    parser = options("append", __doc__)
    parser.add_argument("--rounds", type=times, metavar="N", help="default: 5")
    parser.add_argument(
        "--seconds", type=positive, help="of each contender and round: 1 for a hundred tasks, "
        "and half of it for one",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    seconds = chosen.seconds or (0.2 if chosen.quick else 1.0)
    start = time.perf_counter()
    results = measure(rounds, seconds, seconds / 2, chosen.folder)
    rows = [result.row() for result in results]
    if chosen.json:
        print(as_json("append", ratios(results), rows))
        return 0
    print(table(rows, COLUMNS))
    print(f"\n{listing(ratios(results))}")
    fastest = fastest_peer(results)
    print(f"fastest peer: {fastest.name if fastest else 'none is installed'}")
    print(f"\n{conditions(chosen.folder, start)}; {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
