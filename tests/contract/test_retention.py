"""What is kept for how long: expiry and prune."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    InvalidInputError,
    Removed,
    SessionNotFoundError,
    Storage,
)
from tests.contract.chats import (
    LEVELS,
    add,
    assert_current,
    cached,
    fill,
    numbers,
    say,
    session_ids,
    texts,
    usage,
    warm,
)

pytestmark = pytest.mark.anyio

PAST = datetime(2001, 1, 1, tzinfo=UTC)
FUTURE = datetime(2101, 1, 1, tzinfo=UTC)


async def assert_empty(history: AsyncHistoryManager) -> None:
    """Nothing is left, and nothing is counted."""
    counts = await history.count()
    assert (counts.sessions, counts.records, counts.record_types) == (0, 0, {})
    for group_by in ("model", "user", "session", "day", "provider"):
        tokens = await history.get_token_statistics(group_by=group_by)
        costs = await history.get_cost_statistics(group_by=group_by)
        llm = await history.get_llm_statistics(group_by=group_by)
        assert (tokens.calls, tokens.unknown_calls, tokens.total_tokens) == (0, 0, 0)
        assert (costs.calls, costs.unknown_calls, costs.currencies) == (0, 0, {})
        assert (llm.requests, llm.responses, llm.max_response_time) == (0, 0, None)
        assert (tokens.groups, costs.groups, llm.groups) == ({}, {}, {})


# -- prune


async def test_prune_takes_what_is_expired_and_nothing_else(history: AsyncHistoryManager) -> None:
    for name, expires in (("past", PAST), ("future", FUTURE), ("never", None)):
        await history.create_session(name, expires_at=expires)
        await add(history, name, "1", "2")

    removed = await history.prune()

    assert removed == Removed(sessions=1, records=2)
    assert await session_ids(history) == {"future", "never"}
    assert (await history.count()).records == 4
    assert await history.prune() == Removed()


async def test_what_is_expired_is_there_until_it_is_pruned(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", expires_at=PAST)
    await add(history, "chat", "1")

    assert await texts(history, "chat") == ["1"]
    assert await session_ids(history) == {"chat"}
    await history.prune()
    for call in (history.get_session, history.last, history.get_session_summary):
        with pytest.raises(SessionNotFoundError):
            await call("chat")
    assert (await history.append("chat", say("new"))).first_seq == 1


async def test_expiry_can_be_moved_and_taken_back(history: AsyncHistoryManager) -> None:
    for name, expires in (("saved", PAST), ("doomed", FUTURE), ("freed", PAST)):
        await history.create_session(name, expires_at=expires)

    await history.update_session("saved", expires_at=FUTURE)
    await history.update_session("doomed", expires_at=PAST)
    freed = await history.update_session("freed", expires_at="never")

    await history.prune()
    assert await session_ids(history) == {"saved", "freed"}
    assert freed.expires_at is None
    assert await history.get_session("freed") == freed


@pytest.mark.parametrize("kind", ["create", "fork"])
async def test_the_moment_of_expiry_counts_as_expired(
    history: AsyncHistoryManager, kind: str
) -> None:
    await fill(history, "parent", 2)
    now = datetime.now(UTC)
    if kind == "create":
        await history.create_session("chat", expires_at=now)
    else:
        await history.fork("parent", "chat", expires_at=now)

    await history.prune()

    assert await session_ids(history) == {"parent"}


async def test_prune_by_age_takes_what_was_written_before_it(
    history: AsyncHistoryManager,
) -> None:
    for name in ("a", "b", "c"):
        await fill(history, name, 2)
    await add(history, "a", "3")
    moment = (await history.get_session("c")).updated_at
    # Sessions of one moment may be as old as each other: only those before it go.
    old = {item.id for item in await history.list_sessions() if item.updated_at < moment}

    removed = await history.prune(moment)

    assert removed.sessions == len(old)
    assert await session_ids(history) == {"a", "b", "c"} - old
    assert {"a", "c"} <= await session_ids(history)


async def test_age_is_counted_from_the_last_write_of_any_kind(
    history: AsyncHistoryManager,
) -> None:
    writes: dict[str, Callable[[str], object]] = {
        "append": lambda name: history.append(name, say("x")),
        "replace": lambda name: history.replace(name),
        "truncate": lambda name: history.truncate(name, 1),
        "pop": lambda name: history.pop(name),
        "update": lambda name: history.update_session(name, title="t"),
    }
    for name in [*writes, "unwritten"]:
        await fill(history, name, 3)
    await fill(history, "last", 1)
    moment = (await history.get_session("last")).updated_at + timedelta(microseconds=1)
    await _pass(history, moment)

    for name, write in writes.items():
        await write(name)
    await history.fork("unwritten", "fork")

    removed = await history.prune(moment)
    assert removed.sessions == 2
    assert await session_ids(history) == {*writes, "fork"}


async def test_an_update_of_nothing_is_no_write(history: AsyncHistoryManager) -> None:
    made = await history.create_session("chat")
    await _pass(history, made.updated_at + timedelta(microseconds=1))

    assert await history.update_session("chat") == made


async def _pass(history: AsyncHistoryManager, moment: datetime) -> None:
    """Return when what is written has a later time than that moment."""
    while (await history.create_session("clock")).updated_at < moment:
        await history.delete_session("clock")
    await history.delete_session("clock")


async def test_prune_by_age_takes_what_is_expired_too(history: AsyncHistoryManager) -> None:
    await history.create_session("expired", expires_at=PAST)
    await history.create_session("kept", expires_at=FUTURE)

    assert (await history.prune(PAST)).sessions == 1
    assert await session_ids(history) == {"kept"}


async def test_a_time_span_is_counted_back_from_now(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)

    assert await history.prune(timedelta(days=1)) == Removed()
    for age in (timedelta(days=-1), timedelta.max):
        with pytest.raises(InvalidInputError):
            await history.prune(age)
    assert await history.prune(timedelta(0)) == Removed(sessions=1, records=2)
    await assert_empty(history)


async def test_the_bounds_of_what_is_due(storage: Storage) -> None:
    history = AsyncHistoryManager(storage)
    step = timedelta(microseconds=1)
    for number in (-1, 0, 1):
        await history.create_session(f"{number}", expires_at=FUTURE + number * step)

    async def due(now: datetime, older_than: datetime | None, most: int = 100) -> set[str]:
        deleted = await storage.prune(now=now, older_than=older_than, most=most)
        return {session_id for session_id, _ in deleted}

    assert len(await due(FUTURE, None, most=1)) == 1
    assert await session_ids(history) > {"1"}
    assert len(await due(FUTURE, None)) == 1
    assert await due(FUTURE, None) == set()
    last = (await history.get_session("1")).updated_at
    assert await due(PAST, last) == set()
    assert await due(PAST, last + step) == {"1"}


@pytest.mark.parametrize(
    "bad", [datetime(2020, 1, 1), 5, "yesterday", timedelta(days=-1), timedelta(days=1_000_000)]
)
async def test_an_age_that_is_none_is_refused(history: AsyncHistoryManager, bad: object) -> None:
    await history.create_session("chat", expires_at=PAST)

    with pytest.raises(InvalidInputError):
        await history.prune(bad)

    assert await session_ids(history) == {"chat"}


async def test_prune_takes_more_than_one_transaction_holds(history: AsyncHistoryManager) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(205):
            expires = FUTURE if number % 41 == 0 else PAST
            tasks.start_soon(_create, history, f"chat {number}", expires)

    removed = await history.prune()

    assert removed == Removed(sessions=200, records=0)
    assert await session_ids(history) == {f"chat {number}" for number in range(0, 205, 41)}


async def _create(history: AsyncHistoryManager, name: str, expires: datetime) -> None:
    await history.create_session(name, expires_at=expires)


async def test_a_parent_that_is_pruned_leaves_its_forks(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    await history.fork("chat", "fork", at_seq=3)
    await history.fork("fork", "grandchild")
    await history.update_session("chat", expires_at=PAST)
    await history.update_session("fork", expires_at=PAST)

    assert (await history.prune()).sessions == 2

    assert await session_ids(history) == {"grandchild"}
    assert await texts(history, "grandchild") == numbers(3)
    assert (await history.get_session("grandchild")).forked_from is None


async def test_prune_takes_keys_and_statistics_with_it(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id="ann", expires_at=PAST)
    await history.append("chat", usage("r", 5), idempotency_key="k")

    await history.prune()

    await assert_empty(history)
    assert not (await history.append("chat", usage("r", 5), idempotency_key="k")).replayed


# -- the cache


@pytest.mark.parametrize("way", ["prune", "erase"])
async def test_caches_know_nothing_of_what_is_gone(history: AsyncHistoryManager, way: str) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "gone", 3, user_id="ann")
    await writer.fork("gone", "fork", at_seq=2, user_id="bob")
    await history.update_session("gone", expires_at=PAST)
    for manager in (writer, reader):
        await warm(manager, "gone", "fork")

    await (writer.prune() if way == "prune" else writer.erase_user("ann"))

    for level in LEVELS:
        with pytest.raises(SessionNotFoundError):
            await writer.last("gone", level=level)
    with pytest.raises(SessionNotFoundError):
        await reader.last("gone", level="validated")
    assert writer.cache.peek("gone", 1) is None
    await assert_current(writer, reader, ["fork"])
    await add(writer, "gone", "new")
    await assert_current(writer, reader, ["gone"])
