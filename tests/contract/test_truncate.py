"""Truncate: what stays, what goes, and what every call promises around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asynchistory import (
    AsyncHistoryManager,
    EpochChangedError,
    HistoryQuery,
    IdempotencyMismatchError,
    InvalidInputError,
    SequenceConflictError,
    SessionNotFoundError,
    Storage,
)
from tests.contract.chats import (
    add,
    assert_current,
    assert_rewritten,
    cached,
    fill,
    numbers,
    say,
    seqs,
    texts,
    warm,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("left", [0, 1, 4, 5])
async def test_truncate_keeps_the_first_records(history: AsyncHistoryManager, left: int) -> None:
    await fill(history, "chat", 5)
    await fill(history, "other", 5)

    cut = await history.truncate("chat", left)

    session = await history.get_session("chat")
    assert (cut.session_id, cut.seq, cut.removed, cut.records) == ("chat", left, 5 - left, ())
    assert (session.seq, session.epoch) == (left, cut.epoch)
    assert await texts(history, "chat") == numbers(left)
    assert await texts(history, "other") == numbers(5)


@pytest.mark.parametrize("to_seq", [5, 6, 1000, 2**63 - 1])
async def test_truncate_past_the_end_does_nothing(
    history: AsyncHistoryManager, to_seq: int
) -> None:
    await fill(history, "chat", 5)
    page = await history.query_history(HistoryQuery("chat", limit=2))
    before = await history.get_session("chat")

    cut = await history.truncate("chat", to_seq)

    assert (cut.seq, cut.removed, cut.epoch) == (5, 0, before.epoch)
    assert await history.get_session("chat") == before
    assert await seqs(history, "chat", after=page.next) == [3, 4, 5]


async def test_an_empty_session_can_be_truncated(history: AsyncHistoryManager) -> None:
    made = await history.create_session("chat")

    cut = await history.truncate("chat", 0)

    assert (cut.seq, cut.removed, cut.epoch) == (0, 0, made.epoch)


async def test_a_truncate_that_removes_begins_a_new_epoch(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    await assert_rewritten(history, "chat", lambda: history.truncate("chat", 4))


async def test_an_append_goes_on_where_the_truncate_left_it(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    cut = await history.truncate("chat", 2)

    appended = await history.append("chat", say("three"), say("four"))

    assert (appended.first_seq, appended.last_seq, appended.epoch) == (3, 4, cut.epoch)
    assert await texts(history, "chat") == ["1", "2", "three", "four"]


async def test_what_was_truncated_is_found_nowhere(history: AsyncHistoryManager) -> None:
    await add(history, "chat", "stays", "needle", "needle")

    await history.truncate("chat", 1)

    assert await history.search("needle") == ()
    assert (await history.count()).records == 1
    summary = await history.get_session_summary("chat")
    assert (summary.records, summary.record_types, summary.roles) == (
        1, {"message": 1}, {"user": 1},
    )  # fmt: skip
    page = await history.query_history(HistoryQuery("chat", with_total=True))
    assert page.total == 1


async def test_truncate_changes_what_it_should_of_the_session(
    history: AsyncHistoryManager,
) -> None:
    await history.create_session("chat", user_id="ann", title="t", metadata={"k": 1})
    await add(history, "chat", "1", "2")
    before = await history.get_session("chat")

    await history.truncate("chat", 1)

    after = await history.get_session("chat")
    assert (after.user_id, after.title, after.metadata) == ("ann", "t", {"k": 1})
    assert after.created_at == before.created_at
    assert after.updated_at >= before.updated_at
    page = await history.list_sessions(order="updated", limit=1)
    assert page.sessions == (after,)


async def test_a_missing_session_cannot_be_truncated_nor_popped(
    history: AsyncHistoryManager,
) -> None:
    for call in (
        lambda: history.truncate("none", 0),
        lambda: history.truncate("none", 0, idempotency_key="k", epoch=1, expected_seq=0),
        lambda: history.pop("none"),
    ):
        with pytest.raises(SessionNotFoundError) as caught:
            await call()
        assert caught.value.session_id == "none"
    assert (await history.count()).sessions == 0


async def test_a_truncate_survives_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await fill(history, "chat", 5)
        cut = await history.truncate("chat", 2, idempotency_key="k")
        popped = await history.pop("chat", idempotency_key="j")

    async with AsyncHistoryManager(make_storage()) as history:
        assert await texts(history, "chat") == ["1"]
        again = await history.truncate("chat", 2, idempotency_key="k")
        popped_again = await history.pop("chat", idempotency_key="j")

    assert (again.replayed, again.epoch, again.seq, again.removed) == (True, cut.epoch, 2, 3)
    assert (popped_again.replayed, popped_again.records) == (True, popped.records)


@pytest.mark.parametrize("value", [-1, 2**63, 1.0, True, "1"])
async def test_a_seq_that_is_none_is_refused(history: AsyncHistoryManager, value: object) -> None:
    await fill(history, "chat", 3)

    for call in (
        lambda: history.truncate("chat", value),
        lambda: history.truncate("chat", 0, epoch=value),
        lambda: history.truncate("chat", 0, expected_seq=value),
        lambda: history.pop("chat", expected_seq=value),
    ):
        with pytest.raises(InvalidInputError):
            await call()
    assert await texts(history, "chat") == numbers(3)


# -- epoch and expected_seq


async def test_the_epoch_holds_or_refuses(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    epoch = (await history.get_session("chat")).epoch

    cut = await history.truncate("chat", 4, epoch=epoch)
    with pytest.raises(EpochChangedError) as caught:
        await history.truncate("chat", 2, epoch=epoch)

    assert caught.value.session_id == "chat"
    assert await texts(history, "chat") == numbers(4)
    await history.truncate("chat", 2, epoch=cut.epoch)
    assert await texts(history, "chat") == numbers(2)


async def test_the_epoch_of_a_session_that_was_made_again_is_another(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 3)
    epoch = (await history.get_session("chat")).epoch
    await history.delete_session("chat")
    await fill(history, "chat", 3)

    with pytest.raises(EpochChangedError):
        await history.truncate("chat", 1, epoch=epoch)

    assert await texts(history, "chat") == numbers(3)


async def test_an_append_leaves_the_epoch(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    epoch = (await history.get_session("chat")).epoch
    await add(history, "chat", "4")

    cut = await history.truncate("chat", 2, epoch=epoch)

    assert cut.removed == 2


async def test_expected_seq_holds_or_refuses(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)

    with pytest.raises(SequenceConflictError) as caught:
        await history.truncate("chat", 2, expected_seq=4)

    assert (caught.value.expected, caught.value.actual) == (4, 5)
    assert await texts(history, "chat") == numbers(5)
    await history.truncate("chat", 2, expected_seq=5)
    assert await texts(history, "chat") == numbers(2)


async def test_a_refused_truncate_changes_nothing_and_leaves_its_key(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    before = await history.get_session("chat")

    for refusal in ({"expected_seq": 1}, {"epoch": before.epoch + 1000}):
        with pytest.raises((SequenceConflictError, EpochChangedError)):
            await history.truncate("chat", 2, idempotency_key="k", **refusal)

    assert await history.get_session("chat") == before
    cut = await history.truncate("chat", 2, idempotency_key="k")
    assert (cut.replayed, cut.removed) == (False, 3)


# -- idempotency keys


async def test_a_repeated_truncate_answers_the_same_and_removes_nothing_more(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    first = await history.truncate("chat", 2, idempotency_key="k")
    await add(history, "chat", "three", "four")

    again = await history.truncate("chat", 2, idempotency_key="k")

    assert (first.replayed, again.replayed) == (False, True)
    assert (again.epoch, again.seq, again.removed) == (first.epoch, 2, 3)
    assert await texts(history, "chat") == ["1", "2", "three", "four"]


async def test_a_truncate_that_removed_nothing_spends_its_key(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 2)
    first = await history.truncate("chat", 2, idempotency_key="k")
    await add(history, "chat", "3")

    again = await history.truncate("chat", 2, idempotency_key="k")

    assert (again.replayed, again.seq, again.removed, again.epoch) == (True, 2, 0, first.epoch)
    assert await texts(history, "chat") == numbers(3)


async def test_a_key_is_looked_at_before_epoch_and_expected_seq(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 5)
    epoch = (await history.get_session("chat")).epoch
    options = {"idempotency_key": "k", "epoch": epoch, "expected_seq": 5}
    await history.truncate("chat", 3, **options)

    assert (await history.truncate("chat", 3, **options)).replayed
    with pytest.raises(IdempotencyMismatchError) as caught:
        await history.truncate("chat", 2, **options)

    assert (caught.value.session_id, caught.value.idempotency_key) == ("chat", "k")
    assert await texts(history, "chat") == numbers(3)


async def test_a_key_belongs_to_one_kind_of_call(history: AsyncHistoryManager) -> None:
    async def append() -> None:
        await history.append("chat", say("x"), idempotency_key="append")

    async def replace() -> None:
        await history.replace("chat", say("x"), idempotency_key="replace")

    async def truncate() -> None:
        await history.truncate("chat", 1, idempotency_key="truncate")

    async def pop() -> None:
        await history.pop("chat", 1, idempotency_key="pop")

    kinds = {"append": append, "replace": replace, "truncate": truncate, "pop": pop}
    for call in kinds.values():
        await call()
        await call()
    before = await history.get_session("chat")

    for key in kinds:
        for name, call in {
            "append": lambda: history.append("chat", say("x"), idempotency_key=key),  # noqa: B023
            "replace": lambda: history.replace("chat", say("x"), idempotency_key=key),  # noqa: B023
            "truncate": lambda: history.truncate("chat", 1, idempotency_key=key),  # noqa: B023
            "pop": lambda: history.pop("chat", 1, idempotency_key=key),  # noqa: B023
        }.items():
            if name == key:
                assert (await call()).replayed
            else:
                with pytest.raises(IdempotencyMismatchError):
                    await call()
    assert await history.get_session("chat") == before


async def test_the_keys_of_appends_survive_truncate_and_replace(
    history: AsyncHistoryManager,
) -> None:
    first = await history.append("chat", say("one"), say("two"), idempotency_key="k")
    await history.truncate("chat", 0)
    await history.replace("chat", say("new"))

    again = await history.append("chat", say("one"), say("two"), idempotency_key="k")

    assert (again.replayed, again.epoch, again.first_seq, again.last_seq) == (
        True, first.epoch, 1, 2,
    )  # fmt: skip
    with pytest.raises(IdempotencyMismatchError):
        await history.append("chat", say("new"), idempotency_key="k")
    assert await texts(history, "chat") == ["new"]


async def test_the_key_of_a_truncate_belongs_to_its_session(history: AsyncHistoryManager) -> None:
    for name in ("a", "b"):
        await fill(history, name, 5)
    await history.truncate("a", 2, idempotency_key="k")

    cut = await history.truncate("b", 3, idempotency_key="k")

    assert (cut.replayed, cut.removed) == (False, 2)


async def test_the_key_of_a_truncate_goes_with_its_session(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 5)
    await history.truncate("chat", 2, idempotency_key="k")
    await history.delete_session("chat")
    await fill(history, "chat", 5)

    cut = await history.truncate("chat", 1, idempotency_key="k")

    assert (cut.replayed, cut.removed) == (False, 4)


async def test_a_repeated_record_is_never_answered_with_another_one(
    history: AsyncHistoryManager,
) -> None:
    await history.record_message("chat", "user", "first", idempotency_key="k")
    await history.truncate("chat", 0)
    await history.record_message("chat", "user", "second")

    again = await history.record_message("chat", "user", "first", idempotency_key="k")

    # Another one stands at its seq by now.
    assert again.text == "first"


# -- the cache


async def test_caches_are_current_after_a_truncate(history: AsyncHistoryManager) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 5)
    for left in (5, 4, 1, 0):
        for manager in (writer, reader):
            await warm(manager, "chat")
        await writer.truncate("chat", left)
        await assert_current(writer, reader, ["chat"])
        assert await texts(reader, "chat") == numbers(left)


async def test_caches_are_current_after_a_truncate_and_an_append_of_as_many(
    history: AsyncHistoryManager,
) -> None:
    # The session is as long as it was: only the epoch tells.
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 3)
    await warm(reader, "chat")

    await writer.truncate("chat", 2)
    await add(writer, "chat", "another")

    await assert_current(writer, reader, ["chat"])
    assert await texts(reader, "chat") == ["1", "2", "another"]


async def test_a_cursor_of_a_cached_page_is_refused_after_a_truncate_by_another_handle(
    history: AsyncHistoryManager,
) -> None:
    writer, reader = cached(history), cached(history)
    await fill(writer, "chat", 5)
    page = await reader.query_history(HistoryQuery("chat", limit=2))

    await writer.truncate("chat", 3)

    for level in ("validated", "fresh"):
        with pytest.raises(EpochChangedError):
            await reader.query_history(HistoryQuery("chat", after=page.next), level=level)
