"""Sessions: create, list, update, delete, and what a deletion leaves of cursors and epochs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryQuery,
    InvalidQueryError,
    Message,
    SessionExistsError,
    SessionNotFoundError,
    Storage,
)

pytestmark = pytest.mark.anyio


def say(text: str) -> Message:
    return Message.of("user", text)


async def test_a_created_session_is_read_as_it_was_made(history: AsyncHistoryManager) -> None:
    expires = datetime(2031, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)

    made = await history.create_session(
        "chat", user_id="ann", title="Über 🚀", metadata={"a": [1, None]}, expires_at=expires
    )

    assert await history.get_session("chat") == made
    assert (made.id, made.user_id, made.title, made.metadata) == (
        "chat", "ann", "Über 🚀", {"a": [1, None]},
    )  # fmt: skip
    assert (made.seq, made.forked_from, made.fork_seq, made.expires_at) == (0, None, 0, expires)
    assert made.epoch > 0
    assert made.created_at.utcoffset() is not None
    assert made.created_at <= made.updated_at


async def test_a_session_survives_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await history.create_session("chat", user_id="ann", title="t", metadata={"k": "v"})
        await history.append("chat", say("one"))
        before = await history.get_session("chat")

    async with AsyncHistoryManager(make_storage()) as history:
        assert await history.get_session("chat") == before
        assert (await history.append("chat", say("two"))).first_seq == 2


async def test_a_session_without_an_id_gets_one(history: AsyncHistoryManager) -> None:
    one, other = await history.create_session(), await history.create_session()

    assert one.id != other.id
    assert await history.get_session(one.id) == one


async def test_creating_an_existing_session_raises_or_returns_it(
    history: AsyncHistoryManager,
) -> None:
    made = await history.create_session("chat", title="first")

    with pytest.raises(SessionExistsError) as caught:
        await history.create_session("chat", title="second")
    same = await history.create_session("chat", title="second", exist_ok=True)

    assert caught.value.session_id == "chat"
    assert same == made


async def test_a_session_is_not_changed_through_what_was_handed_in(
    history: AsyncHistoryManager,
) -> None:
    metadata = {"colour": "red"}
    await history.create_session("chat", metadata=metadata)

    metadata["colour"] = "blue"

    assert (await history.get_session("chat")).metadata == {"colour": "red"}


async def test_a_missing_session_is_not_found_by_any_method(history: AsyncHistoryManager) -> None:
    for call in (
        lambda: history.get_session("none"),
        lambda: history.last("none"),
        lambda: history.query_history(HistoryQuery("none")),
        lambda: history.update_session("none", title="x"),
        lambda: history.get_session_summary("none"),
    ):
        with pytest.raises(SessionNotFoundError) as caught:
            await call()
        assert caught.value.session_id == "none"
    assert not await history.delete_session("none")


async def test_the_port_answers_none_for_a_missing_session(storage: Storage) -> None:
    assert await storage.version("none") is None
    assert await storage.tail("none", 5) is None
    assert await storage.get_session("none") is None
    assert await storage.summary("none") is None


async def test_update_changes_what_is_given_and_leaves_the_rest(
    history: AsyncHistoryManager,
) -> None:
    made = await history.create_session("chat", user_id="ann", title="a", metadata={"k": 1})

    titled = await history.update_session("chat", title="b")
    owned = await history.update_session("chat", user_id="bob", metadata={"n": 2})

    assert (titled.title, titled.user_id, titled.metadata) == ("b", "ann", {"k": 1})
    assert (owned.title, owned.user_id, owned.metadata) == ("b", "bob", {"n": 2})
    assert await history.get_session("chat") == owned
    assert (owned.created_at, owned.epoch) == (made.created_at, made.epoch)
    assert owned.updated_at >= made.updated_at


async def test_update_can_empty_title_and_metadata(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", title="a", metadata={"k": 1})

    session = await history.update_session("chat", title="", metadata={})

    assert (session.title, session.metadata) == ("", {})


# -- listing


async def fill(history: AsyncHistoryManager, count: int) -> list[str]:
    names = [f"chat-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        await history.create_session(name, user_id="ann" if number % 3 else "bob")
    return names


async def test_created_order_is_the_first_made_first(history: AsyncHistoryManager) -> None:
    names = await fill(history, 7)
    await history.append(names[2], say("x"))

    page = await history.list_sessions(order="created")

    assert [session.id for session in page] == names
    assert page.next is None


async def test_updated_order_is_the_last_written_first(history: AsyncHistoryManager) -> None:
    names = await fill(history, 5)
    await history.append(names[1], say("x"))
    await history.update_session(names[3], title="new")

    page = await history.list_sessions(order="updated")

    assert [session.id for session in page] == [names[i] for i in (3, 1, 4, 2, 0)]


@pytest.mark.parametrize("order", ["created", "updated"])
@pytest.mark.parametrize("limit", [1, 3, 4, 10, 11, 12])
async def test_pages_of_sessions_have_neither_gap_nor_duplicate(
    history: AsyncHistoryManager, order: str, limit: int
) -> None:
    names = await fill(history, 11)
    found, cursor, pages = list[str](), None, 0

    while True:
        page = await history.list_sessions(order=order, limit=limit, after=cursor)
        found += [session.id for session in page]
        pages += 1
        cursor = page.next
        if cursor is None:
            break

    assert found == (names if order == "created" else names[::-1])
    assert pages == -(-11 // limit)


async def test_paging_holds_while_sessions_come_and_go(history: AsyncHistoryManager) -> None:
    names = await fill(history, 9)
    first = await history.list_sessions(order="created", limit=4)

    await history.delete_session(names[1])
    await history.delete_session(names[5])
    await history.create_session("late")
    rest = await history.list_sessions(order="created", limit=100, after=first.next)

    assert [session.id for session in first] == names[:4]
    assert [session.id for session in rest] == [names[4], *names[6:], "late"]


@pytest.mark.parametrize("order", ["created", "updated"])
async def test_a_list_of_one_users_sessions(history: AsyncHistoryManager, order: str) -> None:
    names = await fill(history, 9)
    found, cursor = list[str](), None

    while True:
        page = await history.list_sessions(user_id="bob", order=order, limit=2, after=cursor)
        found += [session.id for session in page]
        if (cursor := page.next) is None:
            break

    assert sorted(found) == names[::3]
    assert len(await history.list_sessions(user_id="nobody")) == 0


async def test_a_limit_of_0_lists_nothing(history: AsyncHistoryManager) -> None:
    await fill(history, 2)

    page = await history.list_sessions(limit=0)

    assert (page.sessions, page.next) == ((), None)


@pytest.mark.parametrize("cursor", ["", "x", "1", "1.", ".1", "1.2.3", "-1.2", "1." + "9" * 50])
async def test_a_malformed_cursor_of_sessions_is_refused(
    history: AsyncHistoryManager, cursor: str
) -> None:
    with pytest.raises(InvalidQueryError, match="next"):
        await history.list_sessions(after=cursor)


# -- deletion


async def test_deleting_takes_all_that_belongs_to_a_session(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("needle"))
    await history.record_token_usage(
        "chat", request_id="r", provider="p", model="m", input_tokens=3, output_tokens=4
    )
    await history.append("other", say("stays"))

    assert await history.delete_session("chat")

    assert not await history.delete_session("chat")
    assert await history.search("needle") == ()
    assert (await history.get_token_statistics()).calls == 0
    assert (await history.count()).sessions == 1
    assert [record.text for record in await history.last("other")] == ["stays"]


async def test_a_session_made_again_is_not_its_old_self(history: AsyncHistoryManager) -> None:
    old = await history.append("chat", *[say(str(number)) for number in range(5)])
    await history.delete_session("chat")

    new = await history.append("chat", say("new"))

    assert new.first_seq == 1
    assert new.epoch > old.epoch
    assert [record.text for record in await history.last("chat")] == ["new"]


async def test_an_epoch_is_never_drawn_again(make_storage: Callable[[], Storage]) -> None:
    epochs: list[int] = []
    for _ in range(3):
        async with AsyncHistoryManager(make_storage()) as history:
            epochs += [(await history.append(name, say("x"))).epoch for name in ("a", "b")]
            await history.delete_session("a")
            await history.delete_session("b")

    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("direction", ["after", "before"])
async def test_a_cursor_from_before_a_deletion_is_refused(
    history: AsyncHistoryManager, direction: str
) -> None:
    records = [say(str(number)) for number in range(5)]
    await history.append("chat", *records)
    newest = direction == "before"
    page = await history.query_history(HistoryQuery("chat", limit=2, newest=newest))
    await history.delete_session("chat")
    await history.append("chat", *records)

    for level in ("fresh", "validated", "cached"):
        query = HistoryQuery("chat", **{direction: page.next})
        with pytest.raises(EpochChangedError) as caught:
            await history.query_history(query, level=level)
        assert caught.value.session_id == "chat"
