"""Redis that is not there, hangs, or lies: reads go on, and it is used again when it is back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import pytest

from asynchistory import AsyncHistoryManager, StorageUnavailableError, TailCache
from asynchistory.cache.redis.line import MOST, MOST_CHANGES, Server
from asynchistory.cache.redis.tier import RedisTier
from asynchistory.testing import FaultProxy
from tests.redis.server import RedisServer
from tests.redis.setting import Setting, back, counts, read, tier_of
from tests.unit.tail_setting import SlowStorage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def at(proxy: FaultProxy) -> AsyncIterator[Setting]:
    async with Setting(proxy.port, deadline=1.0) as setting:
        await setting.fill("one", "two")
        yield setting


async def test_a_server_that_refuses_costs_nothing_but_itself(
    at: Setting, proxy: FaultProxy
) -> None:
    proxy.refuse()

    assert await read(at.two) == ["one", "two"]

    assert counts(at.two).open
    assert at.two.get_cache_stats().loads == 1


@pytest.mark.parametrize("fault", ["hang", "drop_replies"])
async def test_a_server_that_hangs_is_waited_for_once(
    at: Setting, proxy: FaultProxy, fault: str
) -> None:
    getattr(proxy, fault)()
    assert await read(at.two) == ["one", "two"]
    assert counts(at.two).open
    before = counts(at.two)

    for _ in range(50):
        at.two.cache.clear()
        assert await read(at.two) == ["one", "two"]

    after = counts(at.two)
    assert after.failures == before.failures
    assert after.skipped >= before.skipped + 50
    assert at.two.get_cache_stats().loads == 51


async def test_a_late_answer_is_not_taken_for_another(at: Setting, proxy: FaultProxy) -> None:
    await at.fill("other one", "other two", session_id="other")
    proxy.delay(1.5)
    assert await read(at.two) == ["one", "two"]
    proxy.heal()
    await back(at.two)

    assert await read(at.two, "other") == ["other one", "other two"]
    assert counts(at.two).hits == 1


@pytest.mark.parametrize("after", [0, 1, 60, 200])
async def test_a_truncated_answer_is_none(at: Setting, proxy: FaultProxy, after: int) -> None:
    proxy.truncate_replies(after)
    assert await read(at.two) == ["one", "two"]
    assert counts(at.two).hits == 0


async def test_it_is_used_again_when_it_is_back(at: Setting, proxy: FaultProxy) -> None:
    proxy.refuse()
    await read(at.two)
    proxy.heal()
    await back(at.two)
    at.two.cache.clear()

    assert await read(at.two) == ["one", "two"]
    assert counts(at.two).hits == 1


async def test_a_restarted_server_is_filled_again(at: Setting, redis: RedisServer) -> None:
    redis.kill()
    redis.start()
    for history in (at.one, at.two):
        history.cache.clear()
        await read(history)
        await back(history)
        history.cache.clear()
    await read(at.one)
    assert await at.one.cache.settle()

    assert await read(at.two) == ["one", "two"]
    assert counts(at.two).hits >= 1


async def test_a_flush_costs_a_miss(at: Setting, redis: RedisServer) -> None:
    redis.ask("FLUSHALL")
    redis.ask("SCRIPT", "FLUSH")

    assert await read(at.two) == ["one", "two"]
    assert await at.two.cache.settle()
    assert not counts(at.two).open
    third = at.process()
    assert await read(third) == ["one", "two"]
    assert counts(third).hits == 1


async def test_writes_do_not_wait_for_redis(at: Setting, proxy: FaultProxy) -> None:
    proxy.hang()
    await at.say("three")
    await at.one.truncate("chat", 1)
    await at.say("four")

    assert await read(at.one) == ["one", "four"]


async def test_changes_that_pile_up_are_left_out_and_said_so(
    at: Setting, proxy: FaultProxy
) -> None:
    tier = tier_of(at.one)
    for _ in range(MOST_CHANGES + 10):
        tier.bury("chat", None)

    assert counts(at.one).skipped == 10
    assert not await at.one.cache.settle()
    assert await at.one.cache.settle()


async def test_an_erasure_that_redis_was_not_told_of_says_so(
    at: Setting, proxy: FaultProxy
) -> None:
    await at.one.create_session("mine", user_id="u")
    await at.fill("one", "two", session_id="mine")
    proxy.hang()

    with pytest.raises(StorageUnavailableError, match="Redis cannot be told"):
        await at.one.erase_user("u")

    assert await at.storage.get_session("mine") is None


async def test_a_server_that_takes_no_changes_is_left_alone(
    at: Setting, redis: RedisServer
) -> None:
    redis.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        await at.fill_only("three")
        assert not await at.one.cache.settle()
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", "0")

    assert counts(at.one).failures == 1
    await back(at.one)


async def test_idle_connections_are_bounded(at: Setting, proxy: FaultProxy) -> None:
    tier = tier_of(at.two)
    version = await at.storage.version("chat")
    assert version is not None
    proxy.delay(0.05)  # so that all are under way at once
    async with anyio.create_task_group() as tasks:
        for _ in range(3 * MOST):
            tasks.start_soon(tier.get, "chat", version)

    assert tier.statistics().hits == 3 * MOST
    assert proxy.accepted <= MOST + 1


# -- cancellation


async def test_a_cancelled_call_loses_its_connection_and_nothing_else(
    at: Setting, proxy: FaultProxy
) -> None:
    await read(at.two)
    version = await at.storage.version("chat")
    assert version is not None
    made = proxy.accepted
    proxy.drop_replies()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tier_of(at.two).get, "chat", version)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    proxy.heal()

    assert not counts(at.two).open
    assert (await tier_of(at.two).get("chat", version)) is not None
    assert proxy.accepted == made + 1


async def test_a_connection_that_nobody_waits_for_any_more_is_for_the_next(
    at: Setting, proxy: FaultProxy
) -> None:
    third = tier_of(at.process())
    version = await at.storage.version("chat")
    assert version is not None
    made = proxy.accepted
    proxy.delay(0.05)  # so that the greeting takes its time
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(third.get, "chat", version)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        while await third.get("chat", version) is None:
            await anyio.lowlevel.checkpoint()

    assert proxy.accepted == made + 2
    assert not third.statistics().open


async def test_a_load_whose_reader_is_cancelled_is_taken_over(
    at: Setting, proxy: FaultProxy
) -> None:
    proxy.delay(0.02)
    got: list[list[str]] = []

    async def one() -> None:
        got.append(await read(at.two))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as first:
            async with anyio.create_task_group() as leading:
                leading.start_soon(read, at.two)
                await anyio.wait_all_tasks_blocked()
                for _ in range(5):
                    tasks.start_soon(one)
                await anyio.wait_all_tasks_blocked()
                first.cancel()

    assert got == [["one", "two"]] * 5


# -- who we are


async def test_a_wrong_password_is_logged_without_it(
    caplog: pytest.LogCaptureFixture, anyio_backend_name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer(password="right") as redis:
        found = []
        for password in ("right", "wr0ng-secret", None):
            server = Server("127.0.0.1", redis.port, password=password, deadline=30.0)
            tier = RedisTier(server, "n")
            storage = SlowStorage()
            async with AsyncHistoryManager(storage, TailCache(second=tier)) as history:
                await history.record_message("chat", "user", "one")
                await history.record_message("chat", "user", "two")
                assert len(await history.last("chat")) == 2
                found.append(await history.cache.settle())
            assert "secret" not in repr(tier) + repr(server)

    assert found == [True, False, False]
    assert "secret" not in caplog.text
