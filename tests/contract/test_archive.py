"""Export and import: nothing is lost, nothing is stored by halves, twice adds nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from asynchistory import (
    ArchiveError,
    AsyncHistoryManager,
    HistoryPage,
    HistoryQuery,
    InvalidInputError,
    MemoryStorage,
    Message,
    NotOpenError,
    Session,
    SessionDiffersError,
    SessionNotFoundError,
    Storage,
    StorageUnavailableError,
    TailCache,
    Text,
    ToolCall,
)
from asynchistory.manager import exporting, importing
from asynchistory.storage.port import Cut
from tests.contract.archiving import figures, lines_of, live, say, sessions_in
from tests.contract.conftest import STORES, MakeStorage
from tests.unit.refusals import CANARY, everything

pytestmark = pytest.mark.anyio


@pytest.fixture(params=sorted(STORES))
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    """Another store, empty, of each kind in turn."""
    folder = tmp_path / "target"
    folder.mkdir()
    async with STORES[request.param](folder)() as storage:
        yield storage


@pytest.fixture
async def other(target: Storage) -> AsyncHistoryManager:
    return AsyncHistoryManager(target, TailCache(), level="fresh")


# -- nothing is lost


async def test_a_round_trip_loses_nothing(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)
    before = await lines_of(history)

    done = await other.import_(before)

    after = await lines_of(other)
    assert sessions_in(after) == sessions_in(before)
    assert (done.sessions, done.skipped, done.damaged) == (8, 0, 0)
    assert done.records == sum(len(session["records"]) for session in sessions_in(before))
    assert await figures(other) == await figures(history)
    assert (await other.verify()).ok


async def test_a_session_is_read_as_it_was(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)

    await other.import_(await lines_of(history))

    for before in await history.list_sessions(order="created"):
        after = await other.get_session(before.id)
        assert await other.last(before.id, 100) == await history.last(before.id, 100)
        for name in ("user_id", "title", "metadata", "created_at", "updated_at", "expires_at",
                     "seq", "forked_from", "fork_seq"):  # fmt: skip
            assert getattr(after, name) == getattr(before, name), (before.id, name)
    assert [session.id for session in await other.list_sessions(order="created")] == [
        session.id for session in await history.list_sessions(order="created")
    ]


async def test_keys_answer_as_they_did(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)
    popped = await history.pop("cut", 2, idempotency_key="popped")
    await other.import_(await lines_of(history))
    seq = (await other.get_session("cut")).seq

    made = await other.append("cut", *[say(str(n)) for n in range(6)], idempotency_key="made")
    again = await other.pop("cut", 2, idempotency_key="popped")
    anew = await other.append("cut", say("after"), idempotency_key="after")

    assert (made.replayed, made.first_seq, made.last_seq) == (True, 1, 6)
    assert (anew.replayed, anew.first_seq) == (True, 6)
    assert (again.replayed, again.removed, again.records) == (True, 2, popped.records)
    session = await other.get_session("cut")
    assert session.seq == seq
    # The epochs are other ones, in the same order: what has passed there has passed here.
    assert made.epoch < anew.epoch < again.epoch == session.epoch


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
#: What a newer version might add: any names but those that a message has.
NEWER = st.dictionaries(st.text().map(lambda name: f"new {name}"), PLAIN, max_size=2)
RECORDS = st.one_of(
    st.builds(Message.of, st.text(), st.text(), metadata=st.dictionaries(st.text(), PLAIN)),
    st.builds(Message.of, st.text(), st.text(), extra=NEWER),
    st.builds(ToolCall, name=st.text(), input=PLAIN, output=PLAIN),
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(batch=st.lists(RECORDS, max_size=5), metadata=st.dictionaries(st.text(), PLAIN))
async def test_any_records_come_back(
    storage: Storage, target: Storage, batch: list[Any], metadata: dict[str, Any]
) -> None:
    history, other = AsyncHistoryManager(storage), AsyncHistoryManager(target)
    session = await history.create_session(title="t", metadata=metadata)
    if batch:
        await history.append(session.id, *batch, idempotency_key="key")
    before = await lines_of(history, session.id)

    await other.import_(before)

    after = await lines_of(other, session.id)
    # As text, or 1 would equal 1.0 and True.
    assert repr(sessions_in(after)) == repr(sessions_in(before))


@pytest.mark.parametrize("page", [1, 2, 3, 7])
async def test_pages_and_windows_of_any_size(
    page: int,
    history: AsyncHistoryManager,
    other: AsyncHistoryManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await live(history)
    whole = await lines_of(history)
    for module, name in ((exporting, "PAGE"), (importing, "PAGE"), (importing, "WINDOW")):
        monkeypatch.setattr(module, name, page)

    paged = await lines_of(history)
    added = await other.import_(paged)
    again = await other.import_(paged)

    assert paged == whole
    assert sessions_in(await lines_of(other)) == sessions_in(whole)
    assert (added.sessions, again.sessions, again.skipped) == (8, 0, 8)


async def test_the_order_is_kept_and_forks_find_their_parents(
    storage: Storage, target: Storage
) -> None:
    history, other = AsyncHistoryManager(storage), AsyncHistoryManager(target)
    names = [f"s{number:03}" for number in range(130)]
    await history.append("s000", say("x"))
    for parent, name in pairwise(names):
        await history.fork(parent, name)

    await other.import_(await lines_of(history))

    found = [session async for session in listed(other)]
    assert [session.id for session in found] == names
    assert [session.forked_from for session in found] == [None, *names[:-1]]


async def listed(history: AsyncHistoryManager) -> AsyncIterator[Any]:
    after = None
    while True:
        page = await history.list_sessions(order="created", after=after)
        for session in page:
            yield session
        if (after := page.next) is None:
            return


async def test_what_a_newer_version_wrote_stands_where_it_was(
    history: AsyncHistoryManager,
) -> None:
    text = Text(text="hi", extra={"lang": "de"})
    await history.append("chat", Message.of("user", [text], extra={"mood": 1}))

    [found] = sessions_in(await lines_of(history))

    assert found["records"][0]["mood"] == 1
    assert found["records"][0]["parts"] == [{"type": "text", "text": "hi", "lang": "de"}]


# -- what is exported


async def test_one_session_or_those_of_a_user(history: AsyncHistoryManager) -> None:
    await live(history)

    assert names_in(await lines_of(history, "fork")) == ["fork"]
    assert names_in(await lines_of(history, user_id="ann")) == ["chat", "fork", "fork of fork"]
    assert names_in(await lines_of(history, "bob's", user_id="bob")) == ["bob's"]
    assert await lines_of(history, user_id="nobody") == []
    for args, options in ((("none",), {}), (("chat",), {"user_id": "bob"})):
        with pytest.raises(SessionNotFoundError):
            await lines_of(history, *args, **options)


def names_in(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["session"]["id"] for line in lines]


async def test_an_export_counts_what_it_hands_out(history: AsyncHistoryManager) -> None:
    await history.append("a", say("1"), say("2"))
    await history.append("b", say("3"))

    async with history.export() as lines:
        await anext(lines)
        assert (lines.sessions, lines.records, lines.damaged) == (1, 2, 0)
        assert [line async for line in lines] != []
        assert (lines.sessions, lines.records, lines.damaged) == (2, 3, 0)


async def test_each_line_is_a_whole_of_its_own(history: AsyncHistoryManager) -> None:
    await live(history)

    for line in await lines_of(history):
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        value = json.loads(line)
        seqs = [record["seq"] for record in value["records"]]
        assert seqs == list(range(1, value["session"]["seq"] + 1))


async def test_an_export_is_read_inside_its_block(history: AsyncHistoryManager) -> None:
    await history.append("a", say("1"))
    export = history.export()

    with pytest.raises(NotOpenError):
        await anext(export)
    async with export:
        await anext(export)
    with pytest.raises(NotOpenError):
        await anext(export)


class Meddling(MemoryStorage):
    """Does something to a session just before a read of its records."""

    def __init__(self, meddle: Callable[[Storage], Any]) -> None:
        super().__init__()
        self.meddle: Callable[[Storage], Any] | None = meddle

    async def read(self, query: HistoryQuery) -> HistoryPage:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            await meddle(self)
        return await super().read(query)


async def test_a_session_that_is_rewritten_meanwhile_is_read_again() -> None:
    async with Meddling(lambda storage: storage.truncate(Cut("a", to_seq=1))) as storage:
        history = AsyncHistoryManager(storage)
        await history.append("a", say("1"), say("2"))

        [found] = sessions_in(await lines_of(history))

    assert (found["session"]["seq"], len(found["records"])) == (1, 1)


async def test_a_session_that_is_deleted_meanwhile_is_left_out() -> None:
    async with Meddling(lambda storage: storage.delete_session("a")) as storage:
        history = AsyncHistoryManager(storage)
        await history.append("a", say("1"))
        await history.append("b", say("2"))

        assert names_in(await lines_of(history)) == ["b"]


async def test_a_session_that_was_asked_for_and_is_deleted_meanwhile_is_missed() -> None:
    async with Meddling(lambda storage: storage.delete_session("a")) as storage:
        history = AsyncHistoryManager(storage)
        await history.append("a", say("1"))

        async with history.export("a") as lines:
            with pytest.raises(SessionNotFoundError):
                await anext(lines)


async def test_a_session_that_is_deleted_while_it_is_compared_is_stored_again(
    history: AsyncHistoryManager,
) -> None:
    await history.append("a", say("1"))
    lines = await lines_of(history)
    async with Meddling(lambda storage: storage.delete_session("a")) as storage:
        meddle, storage.meddle = storage.meddle, None
        into = AsyncHistoryManager(storage)
        await into.import_(lines)
        storage.meddle = meddle

        assert (await into.import_(lines)).sessions == 1

        assert await into.last("a") == await history.last("a")


async def test_a_session_that_is_gone_before_it_is_compared_is_stored_again(
    history: AsyncHistoryManager,
) -> None:
    class Gone(MemoryStorage):
        async def get_session(self, session_id: str) -> Session | None:
            await self.delete_session(session_id)
            return await super().get_session(session_id)

    await history.append("a", say("1"))
    async with Gone() as storage:
        into = AsyncHistoryManager(storage)
        await into.append("a", say("other"))

        assert (await into.import_(await lines_of(history))).sessions == 1

        assert await into.last("a") == await history.last("a")


async def test_a_session_that_is_rewritten_while_it_is_compared_is_compared_again(
    history: AsyncHistoryManager,
) -> None:
    await history.append("a", say("1"), say("2"))
    lines = await lines_of(history)
    async with Meddling(lambda storage: storage.truncate(Cut("a", to_seq=1))) as storage:
        meddle, storage.meddle = storage.meddle, None
        into = AsyncHistoryManager(storage)
        await into.import_(lines)
        storage.meddle = meddle

        with pytest.raises(SessionDiffersError):
            await into.import_(lines)


async def test_an_import_that_the_store_refuses_leaves_no_stale_tail(
    history: AsyncHistoryManager,
) -> None:
    class Refusing(MemoryStorage):
        async def restore(self, *args: Any) -> Session:
            await super().restore(*args)
            raise StorageUnavailableError("the answer was lost")

    await history.append("a", say("1"))
    async with Refusing() as storage:
        into = AsyncHistoryManager(storage)
        with pytest.raises(SessionNotFoundError):
            await into.last("a")

        with pytest.raises(StorageUnavailableError, match="lost"):
            await into.import_(await lines_of(history))

        assert await into.last("a", level="cached") == await history.last("a")


async def test_what_is_appended_meanwhile_is_not_half_in_it() -> None:
    async with Meddling(lambda storage: append(storage)) as storage:
        history = AsyncHistoryManager(storage)
        await append(storage)

        [found] = sessions_in(await lines_of(history))

        assert (found["session"]["seq"], len(found["records"]), len(found["keys"])) == (2, 2, 1)


async def append(storage: Storage) -> None:
    seq = await storage.version("a")
    await AsyncHistoryManager(storage).append(
        "a", say("1"), say("2"), idempotency_key=f"after {seq}"
    )


async def test_a_wait_for_a_line_can_be_cancelled_and_begun_again() -> None:
    async def never(storage: Storage) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    async with Meddling(never) as storage:
        history = AsyncHistoryManager(storage)
        await history.append("a", say("1"))
        async with history.export() as lines:
            with anyio.CancelScope() as scope:
                await anext(lines)
            assert scope.cancelled_caught
            assert len([line async for line in lines]) == 1


# -- twice


async def test_importing_again_adds_nothing(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)
    lines = await lines_of(history)
    await other.import_(lines)
    before = await lines_of(other)

    for there in (history, other):
        done = await there.import_(lines)
        assert (done.sessions, done.records, done.skipped) == (0, 0, 8)

    assert await lines_of(other) == before
    assert await lines_of(history) == lines


CHANGES: dict[str, Callable[[AsyncHistoryManager], Any]] = {
    "a record more": lambda history: history.append("chat", say("more")),
    "a record less": lambda history: history.pop("chat"),
    "no records": lambda history: history.truncate("chat", 0),
    "another record": lambda history: history.replace("chat", say("1"), say("other")),
    "the same again": lambda history: history.replace("chat", say("1"), say("2")),
    "a title": lambda history: history.update_session("chat", title="other"),
    "metadata": lambda history: history.update_session("chat", metadata={"k": True}),
    "an owner": lambda history: history.update_session("chat", user_id="other"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_session_that_differs_is_not_touched(
    change: Callable[[AsyncHistoryManager], Any], history: AsyncHistoryManager
) -> None:
    await history.create_session("chat", user_id="ann", title="t", metadata={"k": 1})
    await history.append("chat", say("1"), say("2"))
    await history.append("other", say(CANARY))
    lines = await lines_of(history)
    await change(history)
    await history.delete_session("other")
    before = await lines_of(history, "chat")

    with pytest.raises(SessionDiffersError, match="delete it first") as caught:
        await history.import_(lines)

    assert caught.value.session_id == "chat"
    assert CANARY not in everything(caught.value)
    assert await lines_of(history, "chat") == before
    done = await history.import_(lines, exist_ok=True)
    assert done.skipped + done.sessions == 2
    assert await lines_of(history, "chat") == before
    assert [record.text for record in await history.last("other")] == [CANARY]


async def test_what_a_cache_held_of_an_earlier_session_is_dropped(storage: Storage) -> None:
    writer = AsyncHistoryManager(storage, TailCache())
    await writer.append("chat", say("kept"))
    lines = await lines_of(writer)
    await writer.replace("chat", say("newer"))
    history = AsyncHistoryManager(storage, TailCache(), level="cached")
    await history.last("chat")
    await writer.delete_session("chat")

    await history.import_(lines)

    assert [record.text for record in await history.last("chat")] == ["kept"]


# -- what is taken, what is refused


async def test_lines_come_from_wherever_they_come(history: AsyncHistoryManager) -> None:
    await live(history)
    lines = await lines_of(history)

    def plain() -> Iterator[bytes]:
        yield from lines

    async def asynchronous() -> AsyncIterator[str]:
        for line in lines:
            yield line.decode()

    for source in (
        lines,
        tuple(line.rstrip() for line in lines),
        [text for line in lines for text in (line.decode(), "\n", "  ")],
        b"".join(lines).split(b"\n"),
        plain(),
        asynchronous(),
        map(memoryview, lines),
    ):
        async with MemoryStorage() as storage:
            done = await AsyncHistoryManager(storage).import_(source)  # type: ignore[arg-type]
            assert done.sessions == 8
    assert (await history.import_(())).sessions == 0


async def test_an_export_goes_straight_into_an_import(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)

    async with history.export() as lines:
        done = await other.import_(lines)

    assert done.sessions == 8
    assert sessions_in(await lines_of(other)) == sessions_in(await lines_of(history))


@pytest.mark.parametrize("lines", ["text", b"bytes", Path("file"), 7, None])
async def test_what_is_not_lines_is_refused(history: AsyncHistoryManager, lines: Any) -> None:
    with pytest.raises(InvalidInputError, match="open"):
        await history.import_(lines)


def changed(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(value: dict[str, Any]) -> dict[str, Any]:
        for path, new in changes.items():
            *places, last = path.split("__")
            inner: Any = value
            for place in places:
                inner = inner[int(place[1:]) if place[1:].isdigit() else place]
            inner[int(last[1:]) if last[1:].isdigit() else last] = new
        return value

    return change


def without_a_record(value: dict[str, Any]) -> dict[str, Any]:
    del value["records"][1]
    return value


def without_the_last(value: dict[str, Any]) -> dict[str, Any]:
    del value["records"][-1]
    return value


def in_another_order(value: dict[str, Any]) -> dict[str, Any]:
    value["records"].reverse()
    return value


def with_a_key_twice(value: dict[str, Any]) -> dict[str, Any]:
    value["keys"].append(value["keys"][0])
    return value


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "cut off": lambda value: json.dumps(value)[:-9],
    "bytes": lambda value: json.dumps(value).encode("utf-16"),
    "a lone surrogate": lambda value: json.dumps(value).replace(CANARY, "\ud800"),
    "an escaped lone surrogate": lambda value: json.dumps(value).replace(CANARY, r"\ud800"),
    "NaN": lambda value: json.dumps(changed(records__n0__metadata={"n": float("nan")})(value)),
    "deep": lambda value: json.dumps(value).replace("[", "[" * 100_000),
    "deep metadata": lambda value: json.dumps(value).replace(
        '"role": "user"', '"role": "user", "metadata": {"a": %s}' % ("[" * 300 + "]" * 300)
    ),
    "deep in a record of no known type": lambda value: json.dumps(value).replace(
        '"record_type": "message"',
        '"record_type": "m", "a": %s' % ("[" * 100_000 + "]" * 100_000),
    ),
    "a number out of range": lambda value: json.dumps(value).replace(
        '"role": "user"', '"role": "user", "metadata": {"n": 1e400}'
    ),
    "a number out of range in a record of no known type": lambda value: json.dumps(value).replace(
        '"record_type": "message"', '"record_type": "m", "n": 1e400'
    ),
    "not an object": lambda value: [value],
    "something else": lambda value: {"messages": [{"role": "user", "content": CANARY}]},
    "no line": lambda value: None,
    "not text": lambda value: 5,
    "a newer version": changed(asynchistory=3),
    "a newer version of another shape": lambda value: {"asynchistory": 3, "what": CANARY},
    "a version that never was": changed(asynchistory=0),
    "a version in words": changed(asynchistory=CANARY),
    "a field that is not known": changed(newer=CANARY),
    "no session": changed(session=None),
    "a session without an id": changed(session__id=""),
    "an id of a wrong type": changed(session__id=7),
    "a title of a wrong type": changed(session__title=[CANARY]),
    "a title that is no text": lambda value: json.dumps(changed(session__title="\ud800")(value)),
    "an owner that cannot be": changed(session__user_id="\0"),
    "a time without a zone": changed(session__created_at="2024-01-01T00:00:00"),
    "a time that is none": changed(session__created_at=CANARY),
    "a fork of more than there is": changed(session__fork_seq=4),
    "a negative fork": changed(session__fork_seq=-1),
    "an epoch that cannot be": changed(session__epoch=2**63),
    "records of a wrong type": changed(records={CANARY: 1}),
    "a record of a wrong type": changed(records__n1=CANARY),
    "a record of no known type": changed(records__n1__record_type=CANARY),
    "a field of a wrong type": changed(records__n1__role=[CANARY]),
    "a record id that is none": changed(records__n1__record_id=CANARY),
    "no record id": changed(records__n1__record_id=""),
    "no timestamp": changed(records__n1__timestamp=None),
    "a time of a record without a zone": changed(records__n1__timestamp="2024-01-01T00:00:00"),
    "a record is missing": without_a_record,
    "the last record is missing": without_the_last,
    "records in another order": in_another_order,
    "more records than it says": changed(session__seq=2),
    "a key of a wrong type": changed(keys__n0__key=[CANARY]),
    "a key that cannot be": changed(keys__n0__key=""),
    "a key twice": with_a_key_twice,
    "a digest that is none": changed(keys__n0__digest=CANARY + "!"),
    "a seq that cannot be": changed(keys__n0__last_seq=2**64),
    "a key from the future": changed(keys__n0__epoch=2**40),
    "a range that cannot be": changed(keys__n0__first_seq=9),
}  # fmt: skip


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
async def test_a_line_that_cannot_be_read_is_named_and_nothing_of_it_is_stored(
    spoil: Callable[[dict[str, Any]], Any], history: AsyncHistoryManager
) -> None:
    async with MemoryStorage() as storage:
        source = AsyncHistoryManager(storage)
        for name in ("before", "bad", "after"):
            texts = [say(f"{CANARY} {name} {number}") for number in range(3)]
            await source.append(name, *texts, idempotency_key="key")
        before, bad, after = await lines_of(source)
    spoilt = spoil(json.loads(bad))
    line = json.dumps(spoilt) if isinstance(spoilt, (dict, list)) else spoilt

    with pytest.raises(ArchiveError) as caught:
        await history.import_([before, b"\n", line, after])

    assert caught.value.line == 3
    assert str(caught.value).startswith("line 3: ")
    assert CANARY not in everything(caught.value)
    assert len(str(caught.value)) < 200
    assert [session.id for session in await history.list_sessions()] == ["before"]
    assert (await history.verify()).ok


async def test_lines_of_version_1_are_taken(
    history: AsyncHistoryManager, other: AsyncHistoryManager
) -> None:
    await live(history)
    values = [json.loads(line) for line in await lines_of(history)]
    for value in values:
        value["asynchistory"] = 1
        value.pop("keys", None)
        for record in value["records"]:
            # As version 1 wrote what it did not know itself.
            if "mood" in record:
                record["extra"] = {"mood": record.pop("mood")}
    lines = [json.dumps(value) for value in values]

    added, again = await other.import_(lines), await other.import_(lines)

    assert (added.sessions, again.sessions, again.skipped) == (8, 0, 8)
    found = sessions_in(await lines_of(other))
    for value, session in zip(found, sessions_in(await lines_of(history)), strict=True):
        session.pop("keys", None)
        session["session"]["epoch"] = value["session"]["epoch"] = 0
        assert value == session
    assert await figures(other) == await figures(history)


async def test_version_1_knows_a_conversation_that_came_another_way(
    history: AsyncHistoryManager,
) -> None:
    await history.append("chat", say("1"))
    line = json.loads((await lines_of(history))[0]) | {"asynchistory": 1}
    line.pop("keys", None)
    await history.replace("chat", say("1"))  # the same words, with another id and time

    assert (await history.import_([json.dumps(line)])).skipped == 1


# -- damaged records


async def test_what_was_damaged_is_left_out_and_what_refers_behind_it_moves(
    history: AsyncHistoryManager,
) -> None:
    texts = [say(str(number)) for number in range(6)]
    await history.append("chat", *texts[:2], idempotency_key="first")
    await history.append("chat", *texts[2:4], idempotency_key="second")
    await history.fork("chat", "fork", at_seq=3)
    await history.append("fork", texts[5], idempotency_key="third")
    lines = [json.loads(line) for line in await lines_of(history)]
    for line in lines:
        line["records"][1] = {"record_type": "corrupt", "seq": 2, "reason": "checksum"}
        await history.delete_session(line["session"]["id"])

    for repeat in (False, True):
        done = await history.import_(map(json.dumps, lines))
        assert (done.sessions, done.skipped) == ((0, 2) if repeat else (2, 0))
        assert done.damaged == (0 if repeat else 2)

    assert [record.text for record in await history.last("chat")] == ["0", "2", "3"]
    assert [record.seq for record in await history.last("fork")] == [1, 2, 3]
    assert (await history.get_session("fork")).fork_seq == 2
    again = await history.append("chat", *texts[2:4], idempotency_key="second")
    assert (again.replayed, again.first_seq, again.last_seq) == (True, 2, 3)
    again = await history.append("fork", texts[5], idempotency_key="third")
    assert (again.replayed, again.first_seq) == (True, 3)


# -- cancelled


async def test_a_cancelled_import_leaves_whole_sessions(
    history: AsyncHistoryManager, make_storage: MakeStorage
) -> None:
    async with MemoryStorage() as storage:
        source = AsyncHistoryManager(storage)
        for number in range(120):
            await source.append(f"s{number}", *[say("x")] * 20)
        lines = await lines_of(source)

    async def some() -> AsyncIterator[bytes]:
        for number, line in enumerate(lines):
            if number == 110:
                scope.cancel()
            yield line

    with anyio.CancelScope() as scope:
        await history.import_(some())

    assert scope.cancelled_caught
    stored = await history.list_sessions(limit=1000)
    assert 0 < len(stored) < 120
    assert {session.seq for session in stored} == {20}
    done = await history.import_(lines)
    assert (done.sessions, done.skipped) == (120 - len(stored), len(stored))
