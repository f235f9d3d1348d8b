"""One tier for several event loops, threads and processes at once."""

from __future__ import annotations

import os
import ssl
import sys
import threading
from functools import partial

import anyio
import pytest
import trustme

from asynchistory import AsyncHistoryManager, TailCache
from asynchistory.cache.redis.line import Server
from asynchistory.cache.redis.tier import RedisTier
from asynchistory.testing import FaultProxy
from tests.redis.server import RedisServer
from tests.redis.setting import Setting, counts, read, tier_of


def test_three_loops_use_one_tier_at_once(redis: RedisServer) -> None:
    at = Setting(redis.port)
    barrier = threading.Barrier(3)
    got: list[list[str]] = []

    async def fill() -> None:
        await at.storage.open()
        await at.fill("one", "two")

    async def one_loop() -> None:
        barrier.wait()
        for _ in range(20):
            at.two.cache.clear()
            got.append(await read(at.two))

    anyio.run(fill)
    threads = [
        threading.Thread(target=anyio.run, args=(one_loop,), kwargs={"backend": backend})
        for backend in ("asyncio", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert got == [["one", "two"]] * 60
    assert counts(at.two).failures == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_connections_end_with_the_loop_that_made_them(redis: RedisServer, backend: str) -> None:
    with FaultProxy(redis.port) as proxy:
        at = Setting(proxy.port)

        async def use() -> None:
            await at.storage.open()
            await at.fill("one", "two")
            assert (await read(at.two))[-2:] == ["one", "two"]
            assert proxy.connections == 2

        for _ in range(3):
            at.two.cache.clear()
            anyio.run(use, backend=backend)
            assert tier_of(at.two)._lines == {}
            while proxy.connections:
                continue


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_forked_child_makes_connections_of_its_own(redis: RedisServer, backend: str) -> None:
    at = Setting(redis.port)

    async def work(expected: list[str]) -> None:
        await at.storage.open()
        at.two.cache.clear()
        assert await read(at.two) == expected

    async def parent() -> None:
        await at.storage.open()
        await at.fill("one", "two")
        await work(["one", "two"])
        child = os.fork()
        if not child:
            code = 1
            try:
                # In a thread, which knows nothing of the loop that was running at the fork.
                thread = threading.Thread(
                    target=partial(anyio.run, work, ["one", "two"], backend=backend)
                )
                thread.start()
                thread.join()
                code = 0 if counts(at.two).hits == 2 and not counts(at.two).open else 2
            finally:
                os._exit(code)
        with anyio.fail_after(30):
            _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await work(["one", "two"])

    anyio.run(parent, backend=backend)
    assert counts(at.two).failures == 0


@pytest.mark.anyio
@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_checked(redis: RedisServer, trusted: bool) -> None:
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    checks = ssl.create_default_context()
    if trusted:
        authority.configure_trust(checks)
    with FaultProxy(redis.port, tls=served) as proxy:
        at = Setting(proxy.port)
        tier = RedisTier(Server("127.0.0.1", proxy.port, tls=checks, deadline=30.0), at.namespace)
        history = AsyncHistoryManager(at.storage, TailCache(second=tier))
        async with history:
            await history.record_message("chat", "user", "one")
            await history.record_message("chat", "user", "two")
            assert await read(history) == ["one", "two"]
            assert await history.cache.settle() == trusted


def test_nothing_of_coredis_is_loaded_without_a_redis_url() -> None:
    script = (
        "import sys, asynchistory; asynchistory.open_history('memory://'); "
        "sys.exit('coredis' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("ASYNCHISTORY_CACHE", None)
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", script], environment) == 0
