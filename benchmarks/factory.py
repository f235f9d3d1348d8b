"""An LLM instance by its configuration: what a hit, a new key and a hundred first touches take.

    python -m benchmarks.factory            a table for people
    python -m benchmarks.factory --json     one JSON object
    python -m benchmarks.factory --quick    fewer rounds, to see that it runs

**A hit.** On one side ``await factory.get(provider, model, temperature=temperature)``, by the
arguments of the call, whatever it does with them included, of 1,000 instances that are held. On
the other side ``found[provider, model, temperature]``: a plain dict of 1,000 entries, its key
built from the same three variables, no call and no ``await``. ``hit_over_dict`` is the one over
the other, each by the quickest of many short rounds that take turns, for what else the machine
does only ever adds. ``hit_over_awaited_dict`` puts the look-up into the smallest coroutine
there is, which a cache without exactly-once, event loops and secrets would be. All are timed
with the ``for`` around them.

**A new key.** One further instance through the factory, over one ``httpx.AsyncClient()`` of
one's own, each made in a new process, after ten others: ``instance_time_vs_httpx``, and
``instance_memory_vs_httpx`` by the memory that the process holds (RSS), so that what OpenSSL
takes is counted in.

**First touches.** A hundred callers ask at once for an instance that is not there yet: tasks of
one loop, plain threads (ours through asynchistory_compat), and event loops in a thread each.
Counted is how many different instances they are given: models of LangChain and pydantic-ai, and
with LiteLLM, which shows its user none, the clients that its calls look up.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import anyio

from asynchistory import LLMFactory
from benchmarks._factories import WAYS, measured
from benchmarks._report import as_json, listing, machine, options, table

HELD = 1000
COLUMNS = {
    "name": "contender", "by_tasks": "tasks", "by_threads": "threads", "by_loops": "loops",
    "us_per_hit": "us a hit", "us_per_new_key": "us a new key", "kib_per_key": "KiB a key",
    "mib_for_1000": "MiB for 1,000", "note": "note",
}  # fmt: skip
HITS = {"name": "a hit", "ns": "ns", "median": "median", "note": "note"}
Table = dict[tuple[str, str, float], object]


async def look_up(found: Table, provider: str, model: str, temperature: float) -> object:
    return found[provider, model, temperature]


async def hits(rounds: int, number: int) -> dict[str, list[float]]:
    """Nanoseconds of each kind of look-up, round by round."""
    factory = LLMFactory()
    models = [f"model-{index}" for index in range(HELD)]
    found: Table = {}
    for model in models:
        found["scripted", model, 0.5] = await factory.get("scripted", model, temperature=0.5)
    provider, model, temperature = "scripted", models[HELD // 2], 0.5
    key = "sk-bench"
    await factory.get(provider, model, temperature=temperature, api_key=key)
    clock = time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in ("dict", "awaited", "get", "keyed")}
    for _ in range(rounds):
        start = clock()
        for _ in range(number):
            found[provider, model, temperature]
        taken["dict"].append(clock() - start)
        start = clock()
        for _ in range(number):
            await look_up(found, provider, model, temperature)
        taken["awaited"].append(clock() - start)
        start = clock()
        for _ in range(number):
            await factory.get(provider, model, temperature=temperature)
        taken["get"].append(clock() - start)
        start = clock()
        for _ in range(number):
            await factory.get(provider, model, temperature=temperature, api_key=key)
        taken["keyed"].append(clock() - start)
    return {name: [one / number * 1e9 for one in values] for name, values in taken.items()}


def hit_rows(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    kinds = {
        "dict": ("a plain dict", "the key built, nothing called"),
        "awaited": ("a plain dict in a coroutine", ""),
        "get": ("factory.get(provider, model, temperature=...)", ""),
        "keyed": ("the same with an api_key", ""),
    }
    return [
        {
            "name": name,
            "ns": round(min(taken[kind]), 1),
            "median": round(statistics.median(taken[kind]), 1),
            "note": note,
        }
        for kind, (name, note) in kinds.items()
    ]


def contenders() -> list[dict[str, Any]]:
    rows = [measured(name) for name in WAYS]
    for row in rows:
        if "bytes_per_key" in row:
            size = row["bytes_per_key"]
            row["kib_per_key"] = round(size / 1024, 2)
            row["mib_for_1000"] = round(size * 1000 / 1024**2, 2)
            if row["keys"] < 1000:
                row["note"] += f"{', ' if row['note'] else ''}MiB from {row['keys']} keys"
    return rows


def ratios(taken: dict[str, list[float]], rows: list[dict[str, Any]]) -> dict[str, float]:
    def over(one: str, other: str) -> float:
        return min(taken[one]) / min(taken[other])

    ours, theirs = rows[0], rows[-1]
    return {
        "hit_over_dict": over("get", "dict"),
        "hit_over_awaited_dict": over("get", "awaited"),
        "keyed_hit_over_dict": over("keyed", "dict"),
        "instance_time_vs_httpx": ours["us_per_new_key"] / theirs["us_per_new_key"],
        "instance_memory_vs_httpx": ours["bytes_per_key"] / theirs["bytes_per_key"],
    }


def main(arguments: list[str] | None = None) -> int:
    chosen = options("factory", __doc__).parse_args(arguments)
    start = time.perf_counter()
    taken = anyio.run(hits, *((50, 2000) if chosen.quick else (500, 2000)))
    rows = contenders()
    found = ratios(taken, rows)
    if chosen.json:
        print(as_json("factory", found, [*hit_rows(taken), *rows]))
        return 0
    print(table(hit_rows(taken), HITS))
    print(f"\nInstances made for 100 first touches, and what they take\n{table(rows, COLUMNS)}")
    print(f"\n{listing(found)}")
    print(f"\n{machine()}; {time.perf_counter() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
