"""What other processes change between two statements of the PostgreSQL store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest

from asynchistory import (
    AsyncHistoryManager,
    HistoryQuery,
    PostgresStorage,
    SequenceConflictError,
    SessionNotFoundError,
    StorageUnavailableError,
    Version,
)
from asynchistory.storage.postgres.places import lock_of
from tests.contract.archiving import say
from tests.contract.watching import until
from tests.faults.proxy import Proxy
from tests.postgres import direct, held_up, texts

pytestmark = pytest.mark.anyio

_NEW = (
    "INSERT INTO sessions(id, created, updated, epoch, user_id) "
    "VALUES(%s, now_us(), now_us(), nextval('epochs'), 'ann')"
)


async def meanwhile(
    url: str,
    change: Callable[[psycopg.Connection], Any],
    call: Callable[[], Awaitable[Any]],
    then: Callable[[psycopg.Connection], Any] = lambda other: None,
) -> Any:
    """What a call gives that waits for another transaction, which then commits this change.

    ``then`` is what it changes while it is waited for.
    """
    outcome: list[Any] = []

    async def run() -> None:
        try:
            outcome.append(await call())
        except Exception as error:
            outcome.append(error)

    with direct(url) as other:
        async with anyio.create_task_group() as tasks:
            with other.transaction():
                change(other)
                tasks.start_soon(run)
                await until(lambda: bool(outcome or held_up(other)))
                assert not outcome, "it did not wait"
                then(other)
    return outcome[0]


def before(proxy: Proxy, words: bytes, action: Callable[[], object]) -> None:
    """Do this once, just before the server gets these words."""
    done: list[object] = []

    def change(data: bytes) -> bytes:
        if words in data and not done:
            done.append(action())
        return data

    proxy.change = change


# -- changes that wait


@pytest.mark.parametrize("key", [None, "once"])
async def test_an_append_to_what_others_just_made_goes_on_from_there(
    history: AsyncHistoryManager, url: str, key: str | None
) -> None:
    def theirs(other: psycopg.Connection) -> None:
        other.execute(_NEW, ("chat",))
        other.execute("UPDATE sessions SET seq = 3 WHERE id = 'chat'")

    appended = await meanwhile(
        url, theirs, lambda: history.append("chat", say("ours"), idempotency_key=key)
    )

    assert (appended.first_seq, appended.last_seq) == (4, 4)
    assert await history.storage.version("chat") == Version(appended.epoch, 4)
    session = await history.get_session("chat")
    assert session is not None
    assert session.user_id == "ann"


@pytest.mark.parametrize("key", [None, "once"])
async def test_an_append_to_what_others_have_deleted_begins_anew(
    history: AsyncHistoryManager, url: str, key: str | None
) -> None:
    await history.append("chat", say("old"))
    epochs: list[int] = []

    def delete(other: psycopg.Connection) -> None:
        other.execute("UPDATE sessions SET epoch = nextval('epochs')")
        epochs.extend(other.execute("SELECT epoch FROM sessions").fetchall()[0])
        other.execute("DELETE FROM records")
        other.execute("DELETE FROM sessions")

    appended = await meanwhile(
        url,
        lambda other: other.execute("SELECT 1 FROM sessions FOR UPDATE"),
        lambda: history.append("chat", say("new"), idempotency_key=key),
        delete,
    )

    assert appended.first_seq == 1
    assert appended.epoch > max(epochs)
    assert await texts(history) == ["new"]


async def test_groups_with_keys_and_without_do_not_wait_for_each_other_in_a_circle(
    url: str, cut: tuple[str, Proxy]
) -> None:
    address, proxy = cut
    ended: list[bytes] = []
    proxy.change = lambda data: ended.append(data) or data if b"40P01" in data else data
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    async with (
        AsyncHistoryManager(PostgresStorage(address)) as one,
        AsyncHistoryManager(PostgresStorage(address)) as two,
    ):
        await one.append("there", say("x"))
        for number in range(10):
            with direct(url) as other, direct(url) as looking:
                other.execute("BEGIN")
                other.execute(_NEW, (f"new {number}",))
                async with anyio.create_task_group() as tasks:
                    for store, key in ((one, f"{number}"), (two, None)):
                        for name in (f"new {number}", "there"):
                            tasks.start_soon(
                                partial(store.append, name, say("x"), idempotency_key=key)
                            )
                    await until(lambda: looking.execute(waiting).fetchall() == [(2,)])
                    other.execute("ROLLBACK")  # and both want the new one
        assert len(await texts(one, "there")) == 21
    assert ended == []


async def test_a_replace_of_what_others_just_made_replaces_that(
    history: AsyncHistoryManager, url: str
) -> None:
    await meanwhile(
        url,
        lambda other: other.execute(_NEW, ("chat",)),
        lambda: history.replace("chat", say("ours"), idempotency_key="once"),
    )

    assert await texts(history) == ["ours"]
    session = await history.get_session("chat")
    assert session is not None
    assert session.user_id == "ann"
    replayed = await history.replace("chat", say("ours"), idempotency_key="once")
    assert replayed.replayed


async def test_a_replace_of_nothing_is_refused_once_others_have_stored_something(
    history: AsyncHistoryManager, url: str
) -> None:
    def theirs(other: psycopg.Connection) -> None:
        other.execute(_NEW, ("chat",))
        other.execute("UPDATE sessions SET seq = 3 WHERE id = 'chat'")

    refused = await meanwhile(
        url, theirs, lambda: history.replace("chat", say("ours"), expected_seq=0)
    )

    assert isinstance(refused, SequenceConflictError)
    assert refused.actual == 3


async def test_an_erasure_passes_over_what_others_have_just_deleted(
    history: AsyncHistoryManager, url: str
) -> None:
    for name in ("one", "two"):
        await history.create_session(name, user_id="eve")
        await history.append(name, say(name))

    erased = await meanwhile(
        url,
        lambda other: other.execute("DELETE FROM sessions WHERE id = 'one'"),
        lambda: history.storage.erase_user("eve", most=10),
    )

    assert [(deleted.session_id, deleted.records) for deleted in erased] == [("two", 1)]
    assert (await history.list_sessions(user_id="eve")).sessions == ()


async def test_a_change_of_what_others_have_deleted_and_made_again_is_one_of_the_new(
    history: AsyncHistoryManager, url: str
) -> None:
    await history.create_session("chat", user_id="eve")

    def anew(other: psycopg.Connection) -> None:
        other.execute("DELETE FROM sessions WHERE id = 'chat'")
        other.execute(_NEW, ("chat",))

    session = await meanwhile(
        url, anew, lambda: history.update_session("chat", title="a new title")
    )

    assert (session.user_id, session.title) == ("ann", "a new title")


async def test_a_change_of_what_others_have_deleted_finds_nothing(
    history: AsyncHistoryManager, url: str
) -> None:
    await history.append("chat", say("one"))

    refused = await meanwhile(
        url,
        lambda other: other.execute("DELETE FROM sessions WHERE id = 'chat'"),
        lambda: history.truncate("chat", 0),
    )

    assert isinstance(refused, SessionNotFoundError)


async def test_a_prune_passes_over_a_family_that_is_in_use(
    history: AsyncHistoryManager, url: str
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    for name in ("used", "free"):
        await history.create_session(name, expires_at=long_ago)

    async def prune() -> list[str]:
        deleted = await history.storage.prune(now=datetime.now(UTC), older_than=None, most=10)
        return [each.session_id for each in deleted]

    with direct(url) as other:
        with other.transaction():
            (sid,) = other.execute("SELECT sid FROM sessions WHERE id = 'used'").fetchall()[0]
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", lock_of(sid))
            assert await prune() == ["free"]

        assert await prune() == ["used"]


# -- between two statements of a read


async def test_a_fork_that_is_deleted_while_its_tail_is_read_has_none(
    cut: tuple[str, Proxy], history: AsyncHistoryManager, url: str
) -> None:
    address, proxy = cut
    await history.append("chat", *[say(str(number)) for number in range(5)])
    await history.fork("chat", "fork")
    async with PostgresStorage(address) as storage:
        tail = await storage.tail("fork", 5)
        assert tail is not None
        assert len(tail.records) == 5
        with direct(url) as other:
            before(
                proxy,
                b"REPEATABLE READ",
                lambda: other.execute("DELETE FROM sessions WHERE id = 'fork'"),
            )

            assert await storage.tail("fork", 5) is None
    assert await texts(history, "chat") == ["0", "1", "2", "3", "4"]


async def test_a_fork_that_is_deleted_while_it_is_read_is_not_found(
    cut: tuple[str, Proxy], history: AsyncHistoryManager, url: str
) -> None:
    address, proxy = cut
    await history.append("chat", *[say(str(number)) for number in range(5)])
    await history.fork("chat", "fork")
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as reading:
        with direct(url) as other:
            before(
                proxy,
                b"REPEATABLE READ",
                lambda: other.execute("DELETE FROM sessions WHERE id = 'fork'"),
            )

            with pytest.raises(SessionNotFoundError):
                await reading.query_history(HistoryQuery("fork"))


async def test_a_read_of_one_moment_that_is_cut_is_unavailable_and_the_next_goes_on(
    cut: tuple[str, Proxy], history: AsyncHistoryManager
) -> None:
    address, proxy = cut
    await history.append("chat", say("one"))
    async with AsyncHistoryManager(PostgresStorage(address), level="fresh") as reading:
        proxy.change = lambda data: None if b"GROUP BY" in data else data
        with pytest.raises(StorageUnavailableError, match="hung up"):
            await reading.get_session_summary("chat")

        proxy.change = lambda data: data
        assert (await reading.get_session_summary("chat")).records == 1
