"""Appends: gapless seq, whole batches, idempotency keys, expected_seq."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from asynchistory import (
    Appended,
    AsyncHistoryManager,
    HistoryQuery,
    IdempotencyMismatchError,
    InvalidRecordError,
    Message,
    SequenceConflictError,
    SessionNotFoundError,
    Storage,
    Version,
)

pytestmark = pytest.mark.anyio


def say(text: str) -> Message:
    return Message.of("user", text)


async def stored(history: AsyncHistoryManager, session_id: str) -> list[tuple[int, str]]:
    page = await history.query_history(HistoryQuery(session_id, limit=10_000))
    return [(record.seq, record.text) for record in page]


async def at_once(count: int, work: Callable[[int], object]) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(work, number)


# -- seq

#: Of how many appends one has a key: none, every second, all. Stores may have a quicker way
#: without.
keyed = pytest.mark.parametrize("keyed", [0, 2, 1])


def key(number: int, keyed: int) -> str | None:
    return str(number) if keyed and number % keyed == 0 else None


async def test_the_first_append_makes_the_session(history: AsyncHistoryManager) -> None:
    appended = await history.append("chat", say("one"))

    assert (appended.session_id, appended.first_seq, appended.last_seq) == ("chat", 1, 1)
    assert not appended.replayed
    assert await stored(history, "chat") == [(1, "one")]


@keyed
async def test_100_concurrent_appends_to_one_session_have_no_gap(
    history: AsyncHistoryManager, keyed: int
) -> None:
    answers: dict[int, Appended] = {}

    async def write(number: int) -> None:
        answers[number] = await history.append(
            "chat", say(str(number)), idempotency_key=key(number, keyed)
        )

    await at_once(100, write)

    found = await stored(history, "chat")
    assert [seq for seq, _ in found] == list(range(1, 101))
    assert {text: seq for seq, text in found} == {
        str(number): answer.first_seq for number, answer in answers.items()
    }


@keyed
async def test_100_concurrent_appends_to_as_many_sessions_all_start_at_1(
    history: AsyncHistoryManager, keyed: int
) -> None:
    answers: list[Appended] = []

    async def write(number: int) -> None:
        answers.append(
            await history.append(
                f"chat-{number}", say(str(number)), idempotency_key=key(number, keyed)
            )
        )

    await at_once(100, write)

    assert [(answer.first_seq, answer.last_seq) for answer in answers] == [(1, 1)] * 100
    assert len({answer.epoch for answer in answers}) == 100
    for number in range(100):
        assert await stored(history, f"chat-{number}") == [(1, str(number))]


@keyed
async def test_concurrent_batches_stay_whole_and_contiguous(
    history: AsyncHistoryManager, keyed: int
) -> None:
    answers: dict[int, Appended] = {}

    async def write(number: int) -> None:
        size = number % 5 + 1
        records = [say(f"{number}.{index}") for index in range(size)]
        answers[number] = await history.append(
            f"chat-{number % 3}", *records, idempotency_key=key(number, keyed)
        )

    await at_once(60, write)

    for session in range(3):
        found = await stored(history, f"chat-{session}")
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        texts = [text for _, text in found]
        for number in range(session, 60, 3):
            first, last = answers[number].first_seq, answers[number].last_seq
            whole = [f"{number}.{index}" for index in range(number % 5 + 1)]
            assert texts[first - 1 : last] == whole


async def test_each_concurrent_writer_finds_its_records_in_its_own_order(
    history: AsyncHistoryManager,
) -> None:
    async def write(number: int) -> None:
        for index in range(10):
            await history.append("chat", say(f"{number}.{index}"))

    await at_once(10, write)

    texts = [text for _, text in await stored(history, "chat")]
    assert len(texts) == 100
    for number in range(10):
        mine = [text for text in texts if text.startswith(f"{number}.")]
        assert mine == [f"{number}.{index}" for index in range(10)]


async def test_the_version_follows_every_append(storage: Storage) -> None:
    history = AsyncHistoryManager(storage)
    assert await storage.version("chat") is None

    appended = await history.append("chat", say("one"), say("two"))

    assert await storage.version("chat") == Version(appended.epoch, 2)
    await history.append("chat", say("three"))
    assert await storage.version("chat") == Version(appended.epoch, 3)


# -- atomic batches


async def test_one_malformed_record_refuses_its_whole_batch(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("before"))
    bad = Message.of("user", "bad", metadata={"value": float("nan")})

    with pytest.raises(InvalidRecordError):
        await history.append("chat", say("a"), bad, say("b"))

    assert await stored(history, "chat") == [(1, "before")]


async def test_a_refused_first_append_makes_no_session(history: AsyncHistoryManager) -> None:
    bad = Message.of("user", "bad", metadata={"value": float("nan")})

    with pytest.raises(InvalidRecordError):
        await history.append("chat", say("a"), bad)
    with pytest.raises(SequenceConflictError):
        await history.append("chat", say("a"), expected_seq=1)

    with pytest.raises(SessionNotFoundError):
        await history.get_session("chat")


async def test_an_empty_append_is_refused(history: AsyncHistoryManager) -> None:
    with pytest.raises(InvalidRecordError, match="at least one"):
        await history.append("chat")


async def test_a_refusal_leaves_the_appends_beside_it_alone(history: AsyncHistoryManager) -> None:
    # They may well share one transaction.
    refused: list[int] = []

    async def write(number: int) -> None:
        try:
            expected = 99 if number % 2 else None
            await history.append(f"chat-{number}", say("x"), expected_seq=expected)
        except SequenceConflictError:
            refused.append(number)

    await at_once(20, write)

    assert sorted(refused) == list(range(1, 20, 2))
    page = await history.list_sessions()
    assert {session.id for session in page} == {f"chat-{number}" for number in range(0, 20, 2)}


# -- idempotency keys


async def test_the_same_key_and_content_answers_as_the_first_time(
    history: AsyncHistoryManager,
) -> None:
    first = await history.append("chat", say("one"), say("two"), idempotency_key="k")
    await history.append("chat", say("three"))

    again = await history.append("chat", say("one"), say("two"), idempotency_key="k")

    assert again.replayed
    assert (again.epoch, again.first_seq, again.last_seq) == (first.epoch, 1, 2)
    assert [text for _, text in await stored(history, "chat")] == ["one", "two", "three"]


@pytest.mark.parametrize(
    "other", [[say("other")], [say("one"), say("two")], [Message.of("system", "one")]]
)
async def test_the_same_key_with_other_content_raises(
    history: AsyncHistoryManager, other: list[Message]
) -> None:
    await history.append("chat", say("one"), idempotency_key="k")

    with pytest.raises(IdempotencyMismatchError) as caught:
        await history.append("chat", *other, idempotency_key="k")

    assert (caught.value.session_id, caught.value.idempotency_key) == ("chat", "k")
    assert await stored(history, "chat") == [(1, "one")]


async def test_a_key_is_checked_before_expected_seq(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("one"), idempotency_key="k", expected_seq=0)
    await history.append("chat", say("two"))

    again = await history.append("chat", say("one"), idempotency_key="k", expected_seq=0)
    assert again.replayed
    with pytest.raises(IdempotencyMismatchError):
        await history.append("chat", say("other"), idempotency_key="k", expected_seq=0)


async def test_a_key_belongs_to_its_session(history: AsyncHistoryManager) -> None:
    await history.append("chat-1", say("one"), idempotency_key="k")

    other = await history.append("chat-2", say("another"), idempotency_key="k")

    assert not other.replayed
    assert await stored(history, "chat-2") == [(1, "another")]


async def test_a_key_goes_with_its_session(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("one"), idempotency_key="k")
    await history.delete_session("chat")

    again = await history.append("chat", say("other"), idempotency_key="k")

    assert not again.replayed
    assert await stored(history, "chat") == [(1, "other")]


async def test_a_key_survives_reopening(make_storage: Callable[[], Storage]) -> None:
    async with AsyncHistoryManager(make_storage()) as history:
        await history.append("chat", say("one"), idempotency_key="k")

    async with AsyncHistoryManager(make_storage()) as history:
        again = await history.append("chat", say("one"), idempotency_key="k")
        with pytest.raises(IdempotencyMismatchError):
            await history.append("chat", say("other"), idempotency_key="k")
        found = await stored(history, "chat")

    assert again.replayed
    assert found == [(1, "one")]


async def test_the_same_key_at_once_is_stored_once(history: AsyncHistoryManager) -> None:
    answers: list[Appended] = []

    async def write(number: int) -> None:
        answers.append(await history.append("chat", say("one"), idempotency_key="k"))

    await at_once(20, write)

    assert {(answer.first_seq, answer.last_seq) for answer in answers} == {(1, 1)}
    assert [answer.replayed for answer in answers].count(False) == 1
    assert await stored(history, "chat") == [(1, "one")]


async def test_a_refused_append_does_not_spend_its_key(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("one"))
    with pytest.raises(SequenceConflictError):
        await history.append("chat", say("two"), idempotency_key="k", expected_seq=0)

    appended = await history.append("chat", say("two"), idempotency_key="k", expected_seq=1)

    assert not appended.replayed
    assert appended.last_seq == 2


async def test_a_record_method_hands_out_what_its_key_stored(history: AsyncHistoryManager) -> None:
    first = await history.record_message("chat", "user", "one", idempotency_key="k")
    await history.record_message("chat", "user", "two")

    again = await history.record_message("chat", "user", "one", idempotency_key="k")

    assert again == first


async def test_a_request_without_an_id_can_be_tried_again(history: AsyncHistoryManager) -> None:
    first = await history.record_llm_request("chat", provider="p", model="m", idempotency_key="k")

    again = await history.record_llm_request("chat", provider="p", model="m", idempotency_key="k")

    assert again == first


# -- expected_seq


async def test_expected_seq_holds_or_refuses(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("one"), expected_seq=0)
    await history.append("chat", say("two"), expected_seq=1)

    with pytest.raises(SequenceConflictError) as caught:
        await history.append("chat", say("three"), expected_seq=1)

    error = caught.value
    assert (error.session_id, error.expected, error.actual) == ("chat", 1, 2)
    assert [text for _, text in await stored(history, "chat")] == ["one", "two"]


async def test_of_many_with_one_expected_seq_one_wins(history: AsyncHistoryManager) -> None:
    await history.append("chat", say("one"))
    won: list[int] = []
    found: list[int] = []

    async def write(number: int) -> None:
        try:
            await history.append("chat", say(str(number)), expected_seq=1)
        except SequenceConflictError as error:
            found.append(error.actual)
        else:
            won.append(number)

    await at_once(20, write)

    assert len(won) == 1
    assert found == [2] * 19
    assert await stored(history, "chat") == [(1, "one"), (2, str(won[0]))]


async def test_a_plain_append_never_conflicts(history: AsyncHistoryManager) -> None:
    async def write(number: int) -> None:
        await history.append("chat", say(str(number)))

    await at_once(50, write)

    assert len(await stored(history, "chat")) == 50
