"""The second tier: what it answers, what it is told, and that it is believed in nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from asynchistory import Message, SessionNotFoundError, Version
from asynchistory.cache.redis import wire
from tests.redis.server import RedisServer
from tests.redis.setting import Setting, counts, read, tier_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def at(redis: RedisServer) -> AsyncIterator[Setting]:
    async with Setting(redis.port) as setting:
        yield setting


# -- reads


async def test_another_process_reads_the_tail_from_redis(at: Setting) -> None:
    await at.fill("one", "two", "three")
    asked = at.storage.tails

    assert await read(at.two) == ["one", "two", "three"]

    assert counts(at.two)[:2] == (1, 0)
    assert at.two.get_cache_stats().loads == 0
    assert at.storage.tails == asked + 1  # the newest record alone
    assert await at.two.last("chat") == await at.two.last("chat", level="fresh")


async def test_what_was_read_from_redis_is_held_here(at: Setting) -> None:
    await at.fill("one", "two")
    await read(at.two)

    for level in ("validated", "cached"):
        assert await read(at.two, level=level) == ["one", "two"]

    assert counts(at.two)[:2] == (1, 0)


@pytest.mark.parametrize("level", ["validated", "cached"])
async def test_no_level_believes_redis_before_the_store_was_asked(at: Setting, level: str) -> None:
    await at.fill("one", "two")
    # A process that has no Redis, and so tells it nothing.
    await at.storage.append(await batch(at, "three"))

    assert await read(at.two, level=level) == ["one", "two", "three"]
    assert counts(at.two)[:2] == (0, 1)


async def batch(at: Setting, text: str):  # type: ignore[no-untyped-def]
    return at.one._batch("append", "chat", (Message.of("user", text),), None, None)


async def test_a_session_of_one_record_needs_no_redis(at: Setting) -> None:
    await at.fill("one")

    assert await read(at.two) == ["one"]
    assert counts(at.two)[:2] == (0, 0)


async def test_a_session_that_goes_during_the_load_is_not_found(at: Setting) -> None:
    await at.fill("one", "two")
    await read(at.two)
    at.two.cache.clear()
    await at.storage.delete_session("chat")

    with pytest.raises(SessionNotFoundError):
        await read(at.two, level="cached")
    assert counts(at.two).hits == 1


async def test_a_longer_read_than_what_redis_has_goes_to_the_store(at: Setting) -> None:
    await at.fill(*map(str, range(150)))

    assert len(await at.two.last("chat", 150)) == 150
    assert len(await at.two.last("chat", 100)) == 100


async def test_a_thousand_first_touches_ask_redis_once(at: Setting) -> None:
    await at.fill("one", "two")
    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(read, at.two)

    assert counts(at.two)[:2] == (1, 0)


# -- writes


async def test_an_append_extends_what_redis_has(at: Setting) -> None:
    await at.fill("one", "two")
    await at.say("three")
    await at.say("four", "five")
    await at.one.cache.settle()

    assert await read(at.two) == ["one", "two", "three", "four", "five"]
    assert counts(at.two)[:2] == (1, 0)


async def test_appends_of_many_tasks_extend_it_too(at: Setting) -> None:
    await at.fill("one", "two")
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(at.say, str(number))
    await at.one.cache.settle()

    assert len(await read(at.two)) == 50
    assert counts(at.two)[:2] == (1, 0)


async def test_an_append_behind_another_process_buries_what_redis_has(
    at: Setting, redis: RedisServer
) -> None:
    await at.fill("one", "two")
    await read(at.two)
    await at.storage.append(await batch(at, "unknown to both"))
    await at.storage.append(await batch(at, "and another"))

    tier = tier_of(at.two)
    version = await at.storage.version("chat")
    assert version is not None
    tier.extend("chat", Version(version.epoch, version.seq), [(await batch(at, "x")).rows[0]])
    await tier.settle()

    assert redis.ask("GET", at.key()) == b"B%020d %020d\n" % version


@pytest.mark.parametrize("change", ["truncate", "replace", "pop"])
async def test_a_rewritten_session_is_buried(at: Setting, redis: RedisServer, change: str) -> None:
    await at.fill("secret one", "secret two", "secret three")
    if change == "truncate":
        await at.one.truncate("chat", 1)
    elif change == "pop":
        await at.one.pop("chat")
    else:
        await at.one.replace("chat", Message.of("user", "new"))
    await at.one.cache.settle()

    assert redis.ask("GET", at.key()).startswith(b"B")
    assert await read(at.two) == await read(at.two, level="fresh")


async def test_a_deleted_session_leaves_nothing_in_redis(at: Setting, redis: RedisServer) -> None:
    await at.fill("secret one", "secret two")
    await at.one.delete_session("chat")
    await at.one.cache.settle()

    assert b"secret" not in redis.ask("GET", at.key())
    with pytest.raises(SessionNotFoundError):
        await read(at.two)


async def test_an_erased_user_leaves_nothing_in_redis(at: Setting, redis: RedisServer) -> None:
    for session_id in ("a", "b"):
        await at.one.create_session(session_id, user_id="u")
        await at.fill("secret one", "secret two", session_id=session_id)

    await at.one.erase_user("u")

    for session_id in ("a", "b"):
        assert b"secret" not in redis.ask("GET", at.key(session_id))


async def test_a_session_made_again_is_kept_anew(at: Setting) -> None:
    await at.fill("one", "two")
    await at.one.delete_session("chat")
    await at.fill("new", "newer")

    assert await read(at.two) == ["new", "newer"]
    assert counts(at.two)[:2] == (1, 0)


async def test_an_older_tail_that_comes_late_is_refused(at: Setting, redis: RedisServer) -> None:
    await at.fill("one", "two")
    old = await at.storage.tail("chat", 10)
    assert old is not None
    await at.fill("three")
    newer = redis.ask("GET", at.key())

    tier_of(at.two).keep("chat", old)
    await tier_of(at.two).settle()

    assert redis.ask("GET", at.key()) == newer


async def test_an_older_tail_is_refused_after_a_deletion(at: Setting, redis: RedisServer) -> None:
    await at.fill("secret", "two")
    old = await at.storage.tail("chat", 10)
    assert old is not None
    await at.one.delete_session("chat")
    await at.one.cache.settle()

    tier_of(at.two).keep("chat", old)
    await tier_of(at.two).settle()

    assert redis.ask("GET", at.key()).startswith(b"B")


async def test_no_write_deletes_a_key(at: Setting, redis: RedisServer) -> None:
    before = redis.ask("INFO", "commandstats")
    await at.fill("one", "two")
    await at.one.truncate("chat", 1)
    await at.one.delete_session("chat")
    await at.one.cache.settle()

    after = redis.ask("INFO", "commandstats")
    assert b"cmdstat_getrange" in after
    assert (b"cmdstat_del:" in after) == (b"cmdstat_del:" in before)


async def test_a_tail_that_is_very_large_stays_out(at: Setting, redis: RedisServer) -> None:
    await at.fill("x" * 700_000, "y" * 700_000)

    assert redis.ask("STRLEN", at.key()) == b"0"
    assert len(await read(at.two)) == 2


async def test_a_tail_that_grows_very_large_is_buried(at: Setting, redis: RedisServer) -> None:
    await at.fill("one", "x" * 700_000)
    await at.say("y" * 700_000)
    await at.one.cache.settle()

    assert redis.ask("GET", at.key()).startswith(b"B")


# -- nothing is believed


async def test_a_value_under_another_key_is_not_used(at: Setting, redis: RedisServer) -> None:
    await at.fill("mine", "mine too")
    await at.fill("other", "other too", session_id="chap")
    version = await at.storage.version("chat")
    assert version is not None
    value = redis.ask("GET", at.key("chap"))
    start = b"T" + wire.stamp(version)
    redis.ask("SET", at.key(), start + value[len(start) :])  # as of the right version

    assert await tier_of(at.one).get("chat", version) is None
    assert await read(at.two) == ["mine", "mine too"]
    assert counts(at.two)[:2] == (0, 1)


async def test_two_stores_that_share_a_namespace_do_not_mix(redis: RedisServer) -> None:
    async with Setting(redis.port) as at, Setting(redis.port, at.namespace) as other:
        await at.fill("this", "that")
        await other.say("quite", "different")
        assert await at.storage.version("chat") == await other.storage.version("chat")

        assert await read(other.two) == ["quite", "different"]


def flipped(value: bytes) -> bytes:
    place = value.index(b"two")
    return value[:place] + b"twp" + value[place + 3 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda value: value[:-10],
    "a line is missing": lambda value: value[: value[:-1].rindex(b"\n") + 1],
    "a line is missing in the middle": lambda value: b"\n".join(
        line for number, line in enumerate(value.split(b"\n")) if number != 3
    ),
    "a flipped bit": flipped,
    "no records": lambda value: b"\n".join(value.split(b"\n")[:2]) + b"\n",
    "a number that is none": lambda value: value.replace(b"\n3 ", b"\nx "),
    "empty": lambda value: b"",
    "something else": lambda value: b"\xff\x00" * 50,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_value_is_as_none(
    at: Setting, redis: RedisServer, damage: Callable[[bytes], bytes]
) -> None:
    await at.fill("one", "two", "three")
    redis.ask("SET", at.key(), damage(redis.ask("GET", at.key())))

    assert await read(at.two) == ["one", "two", "three"]
    assert counts(at.two)[:2] == (0, 1)
    await at.two.cache.settle()
    assert not counts(at.two).open


async def test_a_key_of_another_type_harms_only_itself(at: Setting, redis: RedisServer) -> None:
    await at.fill("one", "two")
    await at.fill("one", "two", session_id="other")
    redis.ask("DEL", at.key())
    redis.ask("RPUSH", at.key(), "a list")

    assert await read(at.two) == ["one", "two"]
    assert not counts(at.two).open
    assert await read(at.two, "other") == ["one", "two"]
    await at.two.cache.settle()
    assert not counts(at.two).open


async def test_a_damaged_record_is_not_kept(at: Setting, redis: RedisServer) -> None:
    await at.say("one", "two")
    home = at.storage._homes["chat"]
    place, row = home.rows[0]
    home.rows[0] = (place, row._replace(checksum=row.checksum ^ 1))
    await at.one.last("chat")
    await at.one.cache.settle()

    assert redis.ask("STRLEN", at.key()) == b"0"
