"""Ways to be given an LLM instance by configuration, each measured in a process of its own.

Everyone is asked for OpenAI's chat completions by provider, model, temperature, endpoint and
key, as far as it takes them, in the way that its documentation shows.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio

TOUCHES = 100
URL, KEY = "https://localhost/v1", "sk-bench"
LOOPS = ("asyncio", "trio")


class Way(NamedTuple):
    """A way to be given an instance of a model.

    Attributes:
        ask: gives it to a task.
        call: gives it to a plain thread.
        keys: configurations that are held at once to see what they take.
        note: what one has to know of it.
    """

    ask: Callable[[str], Awaitable[object]]
    call: Callable[[str], object]
    keys: int = 1000
    note: str = ""


def ours() -> Way:
    from asynchistory import LLMFactory
    from asynchistory_compat import LLMFactory as SyncFactory

    factory = LLMFactory()
    sync = SyncFactory(factory)

    async def ask(model: str) -> object:
        return await factory.get("openai", model, temperature=0.0, base_url=URL, api_key=KEY)

    def call(model: str) -> object:
        return sync.get("openai", model, temperature=0.0, base_url=URL, api_key=KEY)

    return Way(ask, call, note="half of the loops are trio's")


def _built(call: Callable[[str], object], keys: int, note: str = "") -> Way:
    """What is called in the same way from everywhere."""

    async def ask(model: str) -> object:
        return call(model)

    return Way(ask, call, keys, note)


def langchain() -> Way:
    import langchain_openai  # noqa: F401 - what init_chat_model builds from
    from langchain.chat_models import init_chat_model

    def call(model: str) -> object:
        return init_chat_model(
            model, model_provider="openai", temperature=0.0, base_url=URL, api_key=KEY
        )

    return _built(call, 1000)


def pydantic_ai() -> Way:
    import pydantic_ai.models.openai  # noqa: F401 - what infer_model builds from
    from pydantic_ai.models import infer_model

    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=URL)
    return _built(lambda model: infer_model(f"openai-chat:{model}"), 100)


def litellm() -> Way:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise its import goes to the network
    from litellm.llms.openai.openai import OpenAIChatCompletion

    openai: Any = OpenAIChatCompletion()

    def call(model: str) -> object:
        # Its clients know no model: what acompletion looks up for each call. So keys differ by key.
        return openai._get_openai_client(is_async=True, api_key=f"{KEY}-{model}", api_base=URL)

    return _built(call, 1000, "holds 200 clients at most")


def own_client() -> Way:
    import httpx

    return _built(lambda model: httpx.AsyncClient(base_url=URL), 100, "made by hand")


WAYS: dict[str, Callable[[], Way]] = {
    "asynchistory": ours,
    "LangChain init_chat_model": langchain,
    "pydantic-ai infer_model": pydantic_ai,
    "LiteLLM": litellm,
    "httpx.AsyncClient each": own_client,
}


# -- first touches: how many instances are made


async def by_tasks(way: Way) -> list[object]:
    found: list[object] = []

    async def touch() -> None:
        found.append(await way.ask("tasks"))

    async with anyio.create_task_group() as group:
        for _ in range(TOUCHES):
            group.start_soon(touch)
    return found


def _at_once(touch: Callable[[int], object]) -> list[object]:
    """What each of a hundred threads is given, that all ask at the same moment."""
    barrier = threading.Barrier(TOUCHES)
    found: list[object] = []

    def run(number: int) -> None:
        barrier.wait()
        found.append(touch(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(TOUCHES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def by_threads(way: Way) -> list[object]:
    return _at_once(lambda number: way.call("threads"))


def by_loops(way: Way, kinds: tuple[str, ...]) -> list[object]:
    def touch(number: int) -> object:
        return anyio.run(way.ask, "loops", backend=kinds[number % len(kinds)])

    return _at_once(touch)


def distinct(found: list[object]) -> int:
    return len({id(instance) for instance in found})


# -- what they take


def resident() -> int:
    """The bytes of memory that this process holds, those that OpenSSL took included."""
    gc.collect()
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        # The most that it ever was, which serves where memory only grows. Linux counts in KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def new_keys(way: Way) -> dict[str, float]:
    """Seconds and bytes of each further configuration."""
    kept = [await way.ask(f"warm-{number}") for number in range(10)]
    before, start = resident(), time.perf_counter()
    for number in range(way.keys):
        kept.append(await way.ask(f"model-{number}"))
    taken = time.perf_counter() - start
    return {
        "us_per_new_key": round(taken / way.keys * 1e6, 2),
        "bytes_per_key": round((resident() - before) / way.keys),
        "keys": way.keys,
    }


async def again(way: Way, seconds: float = 0.5) -> float:
    """Microseconds to be given what one has been given before."""
    await way.ask("again")
    number, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            await way.ask("again")
        number += 10
    return (time.perf_counter() - start) / number * 1e6


def measure(name: str) -> dict[str, Any]:
    """The row of one way, measured in this process."""
    try:
        way = WAYS[name]()
    except ImportError as error:
        return {"name": name, "note": f"skipped: {error.name} is not installed"}
    kinds = LOOPS if name == "asynchistory" else LOOPS[:1]
    row: dict[str, Any] = {"name": name, **anyio.run(new_keys, way)}
    row["us_per_hit"] = round(anyio.run(again, way), 3)
    row["by_tasks"] = distinct(anyio.run(by_tasks, way))
    row["by_threads"] = distinct(by_threads(way))
    row["by_loops"] = distinct(by_loops(way, kinds))
    return {**row, "note": way.note}


def measured(name: str) -> dict[str, Any]:
    """The row of one way, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._factories", name], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        return {"name": name, "note": f"failed: {reason[:120]}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
