"""Checkpoints: a state with a name, and the way back to it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from asynchistory import (
    AsyncHistoryManager,
    Checkpoint,
    CheckpointNotFoundError,
    EpochChangedError,
    HistoryPage,
    HistoryQuery,
    IdempotencyMismatchError,
    InvalidInputError,
    InvalidQueryError,
    InvalidRecordError,
    SequenceConflictError,
    SessionNotFoundError,
    Storage,
    TailCache,
)
from asynchistory.manager import checkpoints
from tests.contract.chats import LEVELS, add, fill, read_all, say, seqs

pytestmark = pytest.mark.anyio

STATE = {"step": 3, "todo": ["a", None], "ü": 0.5}


async def test_a_checkpoint_is_a_record_at_its_place(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)

    saved = await history.save_checkpoint("chat", "before the tools", STATE)

    session = await history.get_session("chat")
    assert (saved.name, saved.state) == ("before the tools", STATE)
    assert (saved.seq, saved.at_seq, saved.epoch) == (4, 3, session.epoch)
    assert saved.session_id == "chat"
    assert saved.timestamp is not None
    assert await history.get_checkpoint("chat", "before the tools") == saved
    # The session's epoch is not the record's.
    [stored] = await history.last("chat", 1)
    assert stored == replace(saved, at_seq=None, epoch=None)


async def test_it_begins_a_session(history: AsyncHistoryManager) -> None:
    saved = await history.save_checkpoint("chat", "start")

    assert (saved.seq, saved.at_seq, saved.state) == (1, 0, None)
    assert (await history.get_session("chat")).epoch == saved.epoch


async def test_the_newest_of_a_name(history: AsyncHistoryManager) -> None:
    for number in range(3):
        await history.save_checkpoint("chat", "a", number)
        await history.save_checkpoint("chat", "b", -number)

    found = await history.get_checkpoint("chat", "a")

    assert (found.seq, found.state) == (5, 2)


async def test_what_is_not_there(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 1)
    await history.save_checkpoint("other", "a")

    with pytest.raises(CheckpointNotFoundError, match="list_checkpoints") as caught:
        await history.get_checkpoint("chat", "a")
    assert (caught.value.session_id, caught.value.name) == ("chat", "a")
    assert isinstance(caught.value, LookupError)
    assert await history.list_checkpoints("chat") == ()
    for missing in (history.get_checkpoint("none", "a"), history.list_checkpoints("none")):
        with pytest.raises(SessionNotFoundError):
            await missing


async def test_the_list_is_of_the_newest_oldest_first(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_PAGE", 3)
    for number in range(10):
        await history.append("chat", say("between"))
        await history.save_checkpoint("chat", "even" if number % 2 == 0 else "odd", number)

    async def states(**options: Any) -> list[Any]:
        return [found.state for found in await history.list_checkpoints("chat", **options)]

    assert await states() == list(range(10))
    assert await states(limit=4) == [6, 7, 8, 9]
    assert await states(limit=0) == []
    assert await states(name="even") == [0, 2, 4, 6, 8]
    assert await states(name="odd", limit=2) == [7, 9]
    found = await history.list_checkpoints("chat")
    assert [item.at_seq for item in found] == [item.seq - 1 for item in found]
    assert {item.epoch for item in found} == {(await history.get_session("chat")).epoch}
    assert (await history.get_checkpoint("chat", "even")).state == 8


async def test_a_record_that_says_itself_where_it_stands(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 3)
    await history.append("chat", Checkpoint(name="a", at_seq=2))

    assert (await history.get_checkpoint("chat", "a")).at_seq == 2


@pytest.mark.parametrize("name", ["", "x" * 513, "a\0b", 3, None])
async def test_names(history: AsyncHistoryManager, name: Any) -> None:
    await fill(history, "chat", 1)

    for call in (
        history.save_checkpoint("chat", name),
        history.get_checkpoint("chat", name),
        history.list_checkpoints("chat", name=name or ""),
    ):
        with pytest.raises(InvalidInputError):
            await call
    with pytest.raises(InvalidQueryError):
        await history.list_checkpoints("chat", limit=-1)


async def test_a_state_that_is_not_json(history: AsyncHistoryManager) -> None:
    with pytest.raises(InvalidRecordError, match="tuple"):
        await history.save_checkpoint("chat", "a", (1, 2))


# -- writing it once, and at the place that was meant


async def test_a_key_saves_it_once(history: AsyncHistoryManager) -> None:
    first = await history.save_checkpoint("chat", "a", 1, idempotency_key="k")
    await add(history, "chat", "later")

    assert await history.save_checkpoint("chat", "a", 1, idempotency_key="k") == first
    assert await seqs(history, "chat") == [1, 2]
    with pytest.raises(IdempotencyMismatchError):
        await history.save_checkpoint("chat", "a", 2, idempotency_key="k")


async def test_a_checkpoint_that_was_read_can_be_stored_again(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", Checkpoint(name="a"), idempotency_key="k")
    found = await history.get_checkpoint("chat", "a")

    # Neither its epoch nor its place is part of what is stored, and so of what a key stands for.
    again = replace(found, at_seq=None)
    assert again.epoch is not None
    assert (await history.append("chat", again, idempotency_key="k")).replayed
    await history.append("chat", again)
    assert (await read_all(history, "chat"))[1].epoch is None


async def test_an_expected_seq(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)

    with pytest.raises(SequenceConflictError):
        await history.save_checkpoint("chat", "a", expected_seq=1)
    assert (await history.save_checkpoint("chat", "a", expected_seq=2)).at_seq == 2


# -- going back


async def test_going_back_and_back_again(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)
    await history.save_checkpoint("chat", "a", STATE)
    epochs = set()

    for attempt in range(3):
        await add(history, "chat", f"attempt {attempt}", "more")
        checkpoint = await history.get_checkpoint("chat", "a")
        epochs.add(checkpoint.epoch)
        cut = await history.truncate("chat", checkpoint.seq, epoch=checkpoint.epoch)

        assert (cut.seq, cut.removed) == (3, 2)
        assert await seqs(history, "chat") == [1, 2, 3]
        assert (await history.get_checkpoint("chat", "a")).state == STATE
    assert len(epochs) == 3


async def test_a_checkpoint_from_before_a_rewrite_is_refused(
    history: AsyncHistoryManager,
) -> None:
    await fill(history, "chat", 2)
    old = await history.save_checkpoint("chat", "a")
    await add(history, "chat", "more")
    await history.truncate("chat", old.seq)
    await add(history, "chat", "more")

    with pytest.raises(EpochChangedError):
        await history.truncate("chat", old.seq, epoch=old.epoch)
    with pytest.raises(EpochChangedError):
        await history.fork("chat", at_seq=old.seq, epoch=old.epoch)

    new = await history.get_checkpoint("chat", "a")
    assert (new.seq, new.record_id) == (old.seq, old.record_id)
    assert new.epoch != old.epoch
    await history.truncate("chat", new.seq, epoch=new.epoch)


async def test_a_checkpoint_goes_with_what_it_stood_in(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)
    old = await history.save_checkpoint("chat", "a")
    await history.replace("chat", say("new"))

    with pytest.raises(CheckpointNotFoundError):
        await history.get_checkpoint("chat", "a")
    with pytest.raises(EpochChangedError):
        await history.truncate("chat", old.seq, epoch=old.epoch)


async def test_a_fork_has_its_parent_s_checkpoints(history: AsyncHistoryManager) -> None:
    await fill(history, "chat", 2)
    await history.save_checkpoint("chat", "a", STATE)
    await add(history, "chat", "4", "5")
    await history.save_checkpoint("chat", "late")
    checkpoint = await history.get_checkpoint("chat", "a")

    for name in ("one", "two"):
        fork = await history.fork("chat", name, at_seq=checkpoint.seq, epoch=checkpoint.epoch)
        assert (fork.seq, fork.fork_seq) == (3, 3)
        await add(history, name, "own")

    inherited = await history.get_checkpoint("one", "a")
    assert (inherited.seq, inherited.state, inherited.at_seq) == (3, STATE, 2)
    assert inherited.epoch == (await history.get_session("one")).epoch != checkpoint.epoch
    assert inherited.session_id == "one"
    with pytest.raises(CheckpointNotFoundError):
        await history.get_checkpoint("one", "late")
    # Each goes back by itself: the parent's epoch is not the fork's.
    with pytest.raises(EpochChangedError):
        await history.truncate("one", checkpoint.seq, epoch=checkpoint.epoch)
    await history.truncate("one", inherited.seq, epoch=inherited.epoch)
    assert [await seqs(history, name) for name in ("one", "two", "chat")] == [
        [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6],
    ]  # fmt: skip
    await history.truncate("chat", checkpoint.seq, epoch=checkpoint.epoch)
    assert (await history.get_checkpoint("two", "a")).state == STATE


# -- what others do meanwhile


@pytest.mark.parametrize("level", LEVELS)
async def test_it_is_always_current(storage: Storage, level: Any) -> None:
    history = AsyncHistoryManager(storage, TailCache(), level=level)
    other = AsyncHistoryManager(storage, TailCache())
    await history.save_checkpoint("chat", "a", 1)
    await history.last("chat")
    await other.save_checkpoint("chat", "a", 2)

    assert (await history.get_checkpoint("chat", "a")).state == 2


async def test_a_rewrite_while_it_is_read_is_noticed(
    history: AsyncHistoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = history.storage
    await fill(history, "chat", 2)
    await history.save_checkpoint("chat", "a", "old")
    read, rewritten = storage.read, []

    async def late(query: HistoryQuery) -> HistoryPage:
        if not rewritten:
            rewritten.append(
                await history.replace("chat", say("new"), Checkpoint(name="a", state="new"))
            )
        return await read(query)

    monkeypatch.setattr(storage, "read", late)

    found = await history.get_checkpoint("chat", "a")

    assert (found.seq, found.state, found.epoch) == (2, "new", rewritten[0].epoch)
