"""The index of a SQLite store's text: a search with it answers as reading everything does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, note, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from asynchistory import AnyRecord, Checkpoint, Message, Reasoning, Text, ToolCall
from asynchistory.queries import SearchQuery
from asynchistory.storage.sqlite import search_index
from asynchistory.storage.sqlite.schema import connect
from asynchistory.storage.text import searchable_text
from tests.unit.search_setting import ALPHABET, Store, empty_database, find, say

TEXTS = st.text(ALPHABET, max_size=12)
SEARCHES = st.text(ALPHABET, min_size=1, max_size=6).filter(lambda text: bool(text.split()))
SESSIONS = st.sampled_from("xy")
ORDERS = st.sampled_from(["newest", "rank"])
RECORDS = st.one_of(
    TEXTS.map(lambda text: Message.of("user", text)),
    st.tuples(TEXTS, TEXTS).map(
        lambda two: Message.of("assistant", [Reasoning(text=two[0]), Text(text=two[1])])
    ),
    TEXTS.map(lambda text: ToolCall(name="t", output={"x": [text]})),
    TEXTS.map(lambda text: Checkpoint(name="c", state=text)),
)


def searches(store: Store) -> st.SearchStrategy[str]:
    """Pieces of what is stored, mostly."""
    texts = [text for text in map(searchable_text, store.records.values()) if text.split()]
    if not texts:
        return SEARCHES
    pieces = st.builds(
        lambda text, place, size: text[place % len(text) :][:size],
        st.sampled_from(texts),
        st.integers(0, 30),
        st.integers(1, 9),
    )
    return pieces.filter(lambda piece: bool(piece.split())) | SEARCHES


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return empty_database(tmp_path_factory.mktemp("empty") / "history.db")


@pytest.fixture
def store(empty: bytes) -> Iterator[Store]:
    with closing(Store.copy(empty)) as store:
        yield store


@given(texts=st.lists(TEXTS, min_size=1, max_size=8), data=st.data())
def test_an_indexed_search_finds_what_reading_all_does(
    empty: bytes, texts: list[str], data: st.DataObject
) -> None:
    with closing(Store.copy(empty)) as store:
        store.append("x", *(Message.of("user", text) for text in texts))
        store.index()
        for text in data.draw(st.lists(searches(store), min_size=5, max_size=20)):
            for order in ("newest", "rank"):
                query = SearchQuery(text, order=order)
                assert store.search(query) == store.scan(query)


def test_searches_of_a_store_that_changes_answer_as_reading_it_does(empty: bytes) -> None:
    class Changes(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = Store.copy(empty)

        def teardown(self) -> None:
            self.store.close()

        @initialize(sessions=st.lists(st.tuples(SESSIONS, RECORDS), max_size=5))
        def begin(self, sessions: list[tuple[str, AnyRecord]]) -> None:
            for session_id, record in sessions:
                self.store.append(session_id, record)

        @rule(session_id=SESSIONS, records=st.lists(RECORDS, min_size=1, max_size=4))
        def append(self, session_id: str, records: list[AnyRecord]) -> None:
            self.store.append(session_id, *records)

        @rule(session_id=SESSIONS, left=st.integers(0, 5))
        def truncate(self, session_id: str, left: int) -> None:
            # Rowids at the end are given again to what is appended after this.
            self.store.truncate(session_id, left)

        @rule(session_id=SESSIONS, records=st.lists(RECORDS, max_size=3))
        def replace(self, session_id: str, records: list[AnyRecord]) -> None:
            with self.store.transaction():
                self.store.truncate(session_id, 0)
                self.store.append(session_id, *records)

        @rule(most=st.integers(1, 5))
        def update(self, most: int) -> None:
            with self.store.transaction() as db:
                search_index.update(db, most)

        @rule()
        def index(self) -> None:
            self.store.index()

        @rule()
        def purge(self) -> None:
            with self.store.transaction() as db:
                search_index.purge(db)

        @rule(data=st.data(), order=ORDERS, session_id=st.none() | SESSIONS)
        def search(self, data: st.DataObject, order: str, session_id: str | None) -> None:
            text = data.draw(searches(self.store))
            query = SearchQuery(text, session_id=session_id, order=order)
            note(f"behind {search_index.behind(self.store.db)}")
            assert self.store.search(query) == self.store.scan(query)

    run_state_machine_as_test(Changes)


def test_a_large_session_is_looked_up(store: Store) -> None:
    texts = [f"word {number} 天{chr(0x4E00 + number % 3_000)}" for number in range(2_500)]
    for start in range(0, 2_500, 500):
        store.append("x", *say(*texts[start : start + 500]))
        store.append("y", *say(*texts[start : start + 500]))
    store.index()
    store.append("x", *say("word 24"))

    for text in ("24", "word 1234", "天一", "word", "absent", "天"):
        for order in ("newest", "rank"):
            for session_id in ("x", None):
                query = SearchQuery(text, session_id=session_id, order=order)
                assert store.search(query) == store.scan(query)


def test_a_short_word_that_is_rare_is_looked_up_beyond_the_newest(store: Store) -> None:
    store.append("x", *say("qz", *(f"hay {number}" for number in range(1_000))))
    store.index()

    assert find(store, "qz") == [1]
    assert find(store, "q") == [1]
    assert find(store, "ha", limit=1) == [1_001]


def test_a_short_word_that_begins_nearly_everything_is_found(store: Store) -> None:
    store.append("x", *say("ab ac ad ae af ag ah ai aj ak", "hay", "az", "ax", "hay"))
    store.index()

    for text in ("a", "a z", "z", "az", "ha", "y"):
        query = SearchQuery(text, order="rank")
        assert store.search(query) == store.scan(query)


def test_processes_share_the_index_of_a_file(empty: bytes, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(empty)
    with (
        closing(connect(path, durability="relaxed", timeout=5)) as one,
        closing(connect(path, durability="relaxed", timeout=5)) as other,
    ):
        one.pragma("journal_mode", "wal")
        first, second = Store(one), Store(other)
        second.records = first.records
        first.append("x", *say("first", "second"))
        second.index()
        assert search_index.behind(one) == 0
        first.truncate("x", 1)
        second.append("x", *say("third"))
        first.index()
        for store in (first, second):
            for text in ("first", "second", "third", "d"):
                query = SearchQuery(text)
                assert store.search(query) == store.scan(query)
