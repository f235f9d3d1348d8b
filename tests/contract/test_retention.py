"""What is kept for how long: expiry, prune and erase_user."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from asynchistory import (
    AsyncHistoryManager,
    Cost,
    InvalidInputError,
    Removed,
    SessionNotFoundError,
    Storage,
    TailCache,
)
from tests.contract.chats import (
    LEVELS,
    add,
    assert_current,
    cached,
    fill,
    numbers,
    say,
    texts,
    usage,
    warm,
)

pytestmark = pytest.mark.anyio

PAST = datetime(2001, 1, 1, tzinfo=UTC)
FUTURE = datetime(2101, 1, 1, tzinfo=UTC)


async def names(history: AsyncHistoryManager) -> set[str]:
    return {session.id for session in await history.list_sessions(limit=10_000)}


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
    assert await names(history) == {"future", "never"}
    assert (await history.count()).records == 4
    assert await history.prune() == Removed()


async def test_what_is_expired_is_there_until_it_is_pruned(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", expires_at=PAST)
    await add(history, "chat", "1")

    assert await texts(history, "chat") == ["1"]
    assert await names(history) == {"chat"}
    await history.prune()
    for call in (history.get_session, history.last, history.get_session_summary):
        with pytest.raises(SessionNotFoundError):
            await call("chat")
    assert (await history.append("chat", say("new"))).first_seq == 1


async def test_expiry_can_be_moved(history: AsyncHistoryManager) -> None:
    await history.create_session("saved", expires_at=PAST)
    await history.create_session("doomed", expires_at=FUTURE)

    await history.update_session("saved", expires_at=FUTURE)
    await history.update_session("doomed", expires_at=PAST)

    await history.prune()
    assert await names(history) == {"saved"}


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

    assert await names(history) == {"parent"}


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
    assert await names(history) == {"a", "b", "c"} - old
    assert {"a", "c"} <= await names(history)


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
    assert await names(history) == {*writes, "fork"}


async def _pass(history: AsyncHistoryManager, moment: datetime) -> None:
    """Return when what is written has a later time than that moment."""
    while (await history.create_session("clock")).updated_at < moment:
        await history.delete_session("clock")
    await history.delete_session("clock")


async def test_prune_by_age_takes_what_is_expired_too(history: AsyncHistoryManager) -> None:
    await history.create_session("expired", expires_at=PAST)
    await history.create_session("kept", expires_at=FUTURE)

    assert (await history.prune(PAST)).sessions == 1
    assert await names(history) == {"kept"}


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
    assert await names(history) > {"1"}
    assert len(await due(FUTURE, None)) == 1
    assert await due(FUTURE, None) == set()
    last = (await history.get_session("1")).updated_at
    assert await due(PAST, last) == set()
    assert await due(PAST, last + step) == {"1"}


@pytest.mark.parametrize("bad", [datetime(2020, 1, 1), 5, "yesterday"])
async def test_an_age_that_is_none_is_refused(history: AsyncHistoryManager, bad: object) -> None:
    await history.create_session("chat", expires_at=PAST)

    with pytest.raises(InvalidInputError):
        await history.prune(bad)

    assert await names(history) == {"chat"}


async def test_prune_takes_more_than_one_transaction_holds(history: AsyncHistoryManager) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(205):
            expires = FUTURE if number % 41 == 0 else PAST
            tasks.start_soon(_create, history, f"chat {number}", expires)

    removed = await history.prune()

    assert removed == Removed(sessions=200, records=0)
    assert await names(history) == {f"chat {number}" for number in range(0, 205, 41)}


async def _create(history: AsyncHistoryManager, name: str, expires: datetime) -> None:
    await history.create_session(name, expires_at=expires)


async def test_a_parent_that_is_pruned_leaves_its_forks(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    await history.fork("chat", "fork", at_seq=3)
    await history.fork("fork", "grandchild")
    await history.update_session("chat", expires_at=PAST)
    await history.update_session("fork", expires_at=PAST)

    assert (await history.prune()).sessions == 2

    assert await names(history) == {"grandchild"}
    assert await texts(history, "grandchild") == numbers(3)
    assert (await history.get_session("grandchild")).forked_from is None


async def test_prune_takes_keys_and_statistics_with_it(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id="ann", expires_at=PAST)
    await history.append("chat", usage("r", 5), idempotency_key="k")

    await history.prune()

    await assert_empty(history)
    assert not (await history.append("chat", usage("r", 5), idempotency_key="k")).replayed


# -- erase_user


@pytest.fixture
async def peopled(history: AsyncHistoryManager) -> AsyncHistoryManager:
    """Sessions of ann, of bob, who has forks of hers, and of nobody."""
    for name, owner in (("ann 1", "ann"), ("ann 2", "ann"), ("bob 1", "bob"), ("none", None)):
        await fill(history, name, 4, user_id=owner)
        await history.append(name, usage("r", 7))
    await history.append("ann 1", Cost(request_id="r", provider="p", model="m", currency="EUR"))
    await history.fork("ann 1", "bob's copy", at_seq=3, user_id="bob")
    await history.fork("ann 1", "ann's fork", at_seq=2)
    await history.fork("ann 1", "bob's fork", at_seq=5)
    await history.fork("bob's fork", "bob's fork's fork", at_seq=4)
    for name in ("bob's fork", "bob's fork's fork"):  # they share ann's records from before
        await history.update_session(name, user_id="bob")
    return history


async def test_erase_takes_all_of_a_user_and_nothing_else(peopled: AsyncHistoryManager) -> None:
    removed = await peopled.erase_user("ann")

    assert removed.sessions == 3
    assert await names(peopled) == {
        "bob 1", "none", "bob's copy", "bob's fork", "bob's fork's fork",
    }  # fmt: skip
    assert len(await peopled.list_sessions(user_id="ann")) == 0
    assert (await peopled.get_token_statistics(user_id="ann")).calls == 0
    by_user = await peopled.get_token_statistics(group_by="user")
    assert {user: group.total_tokens for user, group in by_user.groups.items()} == {
        "bob": 7, "": 7,
    }  # fmt: skip
    assert (await peopled.get_cost_statistics()).currencies == {}
    assert await peopled.search("1", user_id="ann") == ()


async def test_erase_leaves_other_users_forks_readable(peopled: AsyncHistoryManager) -> None:
    before = {name: await peopled.last(name) for name in ("bob's copy", "bob's fork")}

    await peopled.erase_user("ann")

    for name, records in before.items():
        assert await peopled.last(name) == records
        assert (await peopled.get_session(name)).forked_from is None
    assert [record.seq for record in await peopled.last("bob's fork's fork")] == [1, 2, 3, 4]
    await add(peopled, "bob's copy", "more")
    assert await texts(peopled, "bob's copy") == [*numbers(3), "more"]


async def test_erasing_everyone_leaves_what_is_of_nobody(peopled: AsyncHistoryManager) -> None:
    for user in ("bob", "ann"):
        await peopled.erase_user(user)

    assert await names(peopled) == {"none"}
    assert (await peopled.count()).records == 5
    assert (await peopled.get_token_statistics()).calls == 1


async def test_a_user_without_sessions_is_erased_too(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2, user_id="ann")

    for user in ("bob", "an", "ANN", "ann%", "u"):
        assert await history.erase_user(user) == Removed()

    assert await names(history) == {"chat"}


@pytest.mark.parametrize("bad", ["", "a\0", "\ud800", 5])
async def test_a_user_that_is_none_is_refused(history: AsyncHistoryManager, bad: object) -> None:
    with pytest.raises(InvalidInputError):
        await history.erase_user(bad)


async def test_erase_takes_more_than_one_transaction_holds(history: AsyncHistoryManager) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(205):
            owner = "bob" if number % 41 == 0 else "ann"
            tasks.start_soon(_fill, history, f"chat {number}", owner)

    assert await history.erase_user("ann") == Removed(sessions=200, records=200)
    assert await names(history) == {f"chat {number}" for number in range(0, 205, 41)}


async def _fill(history: AsyncHistoryManager, name: str, owner: str) -> None:
    await fill(history, name, 1, user_id=owner)


async def test_sessions_of_an_erased_user_can_be_made_again(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3, user_id="ann")
    old = await history.get_session("chat")
    await history.erase_user("ann")

    await fill(history, "chat", 1, user_id="ann")

    assert (await history.get_session("chat")).epoch > old.epoch
    assert await texts(history, "chat") == ["1"]


async def test_an_erased_user_stays_erased_when_the_store_is_opened_again(
    make_storage: Callable[[], Storage],
) -> None:
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await fill(history, "ann's", 3, user_id="ann")
        await fill(history, "bob's", 3, user_id="bob")
        await history.erase_user("ann")

    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        assert await names(history) == {"bob's"}
        assert (await history.count()).records == 3


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
