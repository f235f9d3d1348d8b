"""First touches: 100 conversations that each build their own LLM client, or share the factory's.

    python -m benchmarks.init            a table for people
    python -m benchmarks.init --json     one JSON object

Each round makes 100 first touches of one configuration and keeps what they are
given, as 100 open conversations do. Time is wall clock, memory what Python has
allocated for it (what OpenSSL takes beside that, some 800 KiB a client with an
SSL context of its own, is not seen).

``uncached`` in the ratios is what is done without a factory: an
``openai.AsyncOpenAI`` for each conversation. ``own_uncached`` is this library's
client without its factory, which still shares one SSL context in the process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from asynchistory import LLMFactory
from asynchistory.llm.key import client_key
from asynchistory.llm.providers import build_client
from benchmarks._report import as_json, machine, table

TOUCHES = 100
Make = Callable[[], Awaitable[object]]


async def own_uncached() -> object:
    key = client_key("openai", "gpt-4o", 0.0, "https://localhost/v1", "sk-bench")
    return await build_client(key, api_key="sk-bench", timeout=60.0, options={})


def cached() -> Make:
    factory = LLMFactory()

    async def make() -> object:
        return await factory.get(
            "openai", "gpt-4o", temperature=0.0, base_url="https://localhost/v1", api_key="sk-bench"
        )

    return make


async def uncached() -> object:
    import openai

    return openai.AsyncOpenAI(api_key="sk-bench", base_url="https://localhost/v1")


async def touch(make: Make) -> list[object]:
    return [await make() for _ in range(TOUCHES)]


async def timed(make: Make) -> float:
    start = time.perf_counter()
    kept = await touch(make)
    return (time.perf_counter() - start) / len(kept)


async def weighed(make: Make) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = await touch(make)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()


async def measure(rounds: int) -> list[dict[str, Any]]:
    # Each round of the cached one has a factory of its own, so that its creation is counted in.
    contenders: dict[str, Callable[[], Make]] = {
        "asynchistory, cached": cached,
        "asynchistory, a client each": lambda: own_uncached,
        "openai.AsyncOpenAI each": lambda: uncached,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    sizes: dict[str, list[float]] = {name: [] for name in contenders}
    for make in contenders.values():
        await make()()  # imports, and the process's SSL context, are not what is measured
    for _ in range(rounds):
        for name, make in contenders.items():
            times[name].append(await timed(make()))
            sizes[name].append(await weighed(make()))
    return [
        {
            "name": name,
            "us_per_touch": round(statistics.median(times[name]) * 1e6, 2),
            "bytes_per_touch": round(statistics.median(sizes[name])),
            "touches": TOUCHES,
        }
        for name in contenders
    ]


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    ours, own, official = rows
    found = {}
    for name, row in (("uncached", official), ("own_uncached", own)):
        for what, key in (("time", "us_per_touch"), ("memory", "bytes_per_touch")):
            found[f"{name}_over_cached_{what}"] = row[key] / max(1, ours[key])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    rows = anyio.run(measure, options.rounds)
    found = ratios(rows)
    if options.json:
        print(as_json("init", found, rows))
        return 0
    print(machine())
    columns = {"name": "100 first touches", "us_per_touch": "us", "bytes_per_touch": "bytes"}
    print(table(rows, columns))
    for name, ratio in found.items():
        print(f"{name:30} {ratio:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
