"""The index of a SQLite store's text: when there is one, what is in it, and that it forgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import apsw
import pytest

from asynchistory.queries import SearchQuery
from asynchistory.storage.sqlite import search_index
from asynchistory.storage.sqlite.sql import rows
from tests.unit.search_setting import Store, empty_database, find, say


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return empty_database(tmp_path_factory.mktemp("empty") / "history.db")


@pytest.fixture
def store(empty: bytes) -> Iterator[Store]:
    with closing(Store.copy(empty)) as store:
        yield store


#: One trigram. No other begins with its first byte, so that a page has it in one piece.
SECRET = "🚀é天"


def tables(store: Store) -> set[str]:
    return {name for (name,) in store.db.execute("SELECT name FROM sqlite_schema")}


def indexed(store: Store) -> set[int]:
    """The rowids that the index holds."""
    found = store.db.execute("SELECT id FROM search_docsize UNION SELECT record FROM search_loose")
    return {rowid for (rowid,) in found}


def pages_with(store: Store, text: str) -> int:
    """How many pages of the index have these characters, of deleted records too."""
    blocks = store.db.execute("SELECT block FROM search_data")
    return sum(text.encode() in block for (block,) in blocks)


def purge(store: Store) -> None:
    more = True
    while more:
        with store.transaction() as db:
            more = search_index.purge(db)


def test_there_is_no_index_before_the_first_update(store: Store) -> None:
    before = tables(store)
    store.append("x", *say("one", "two"))

    assert find(store, "two") == [2]
    assert not search_index.exists(store.db)
    assert search_index.behind(store.db) == 2
    assert tables(store) == before
    store.index()
    assert search_index.exists(store.db)
    assert search_index.behind(store.db) == 0


def test_a_dropped_index_leaves_nothing(store: Store) -> None:
    before = tables(store)
    store.append("x", *say("one"))
    store.index()

    with store.transaction() as db:
        search_index.drop(db)

    assert tables(store) == before
    store.truncate("x", 0)
    assert search_index.behind(store.db) == 0


def test_an_append_does_not_touch_the_index(store: Store) -> None:
    store.append("x", *say("one"))
    store.index()

    store.append("x", *say("two"))

    assert indexed(store) == {1}
    assert search_index.behind(store.db) == 1
    assert find(store, "two") == [2]


def test_an_update_does_some_at_a_time(store: Store) -> None:
    store.append("x", *say(*"abcde"))

    with store.transaction() as db:
        assert search_index.update(db, 2)
    assert indexed(store) == {1, 2}
    with store.transaction() as db:
        assert search_index.update(db, 9)
        assert not search_index.update(db, 9)
    assert indexed(store) == {1, 2, 3, 4, 5}


def test_large_texts_end_a_slice(store: Store) -> None:
    store.append("x", *say(*(str(number) * 9_000 for number in range(9))))

    with store.transaction() as db:
        search_index.update(db, 1_000)

    assert 0 < search_index.behind(store.db) < 9


def test_a_text_too_large_to_index_is_found(store: Store) -> None:
    store.append("x", *say(" ".join(map(str, range(50_000))), "short 12345", "short"))
    store.index()

    assert indexed(store) == {1, 2, 3}
    assert rows(store.db, "SELECT record FROM search_loose") == [(1,)]
    assert find(store, "12345") == [2, 1]
    assert find(store, "12345 33333") == [1]
    assert find(store, "33", order="rank") == [1]


def test_a_long_text_of_the_same_words_is_indexed(store: Store) -> None:
    store.append("x", *say("again and " * 100_000))
    store.index()

    assert store.db.execute("SELECT count(*) FROM search_loose").fetchall() == [(0,)]
    assert find(store, "again") == [1]


def test_rowids_that_are_given_again_are_indexed_again(store: Store) -> None:
    store.append("x", *say("first", "second", "third"))
    store.index()

    store.truncate("x", 1)
    assert search_index.behind(store.db) == 0
    store.append("x", *say("fourth", "fifth", "sixth"))

    assert search_index.behind(store.db) == 3
    store.index()
    assert find(store, "fourth") == [2]
    assert find(store, "second") == []
    assert indexed(store) == {1, 2, 3, 4}


def test_a_change_that_is_rolled_back_leaves_the_index_as_it_was(store: Store) -> None:
    store.append("x", *say("first", "second"))
    store.index()
    known = dict(store.records)

    store.db.execute("BEGIN IMMEDIATE")
    store.truncate("x", 0)
    store.append("x", *say("third"))
    search_index.update(store.db, 10)
    store.db.execute("ROLLBACK")
    store.records = known

    assert find(store, "third") == []
    assert find(store, "second") == [2]
    assert search_index.behind(store.db) == 0


def test_deleted_texts_are_purged_from_the_index(store: Store) -> None:
    secret, kept = SECRET, "天气很"
    store.append("x", *say(kept))
    store.append("y", *say(secret, *(f"{secret} {number}" for number in range(300))))
    store.append("z", *say(kept))
    store.index()

    store.truncate("y", 0)
    assert pages_with(store, secret)
    purge(store)

    assert not pages_with(store, secret)
    assert pages_with(store, kept)
    assert indexed(store) == {1, 303}
    assert [name for name, _, _ in store.search(SearchQuery(kept))] == ["z", "x"]
    assert store.search(SearchQuery(secret)) == []


def test_an_index_of_which_all_was_deleted_is_purged(store: Store) -> None:
    store.append("x", *say(SECRET))
    store.index()

    store.truncate("x", 0)
    assert pages_with(store, SECRET)
    purge(store)

    assert not pages_with(store, SECRET)


def test_a_purge_without_an_index_has_nothing_to_do(store: Store) -> None:
    store.append("x", *say("one"))

    assert not search_index.purge(store.db)


def test_the_index_passes_sqlites_own_check(store: Store) -> None:
    store.append("x", *say(*(f"{number} {number * 7_919}" for number in range(500))))
    store.index(50)
    store.truncate("x", 200)
    store.append("x", *say("ﬁ", "\0"))
    store.index()

    store.db.execute("INSERT INTO search(search) VALUES('integrity-check')")
    assert store.db.pragma("integrity_check") == "ok"


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM search_data WHERE id > 10",  # all but the two pages that say what there is
        "DELETE FROM search_data",
        "UPDATE search_data SET block = x'ffffffffffffffff'",
        "DELETE FROM search_config",
        "DELETE FROM search_state",
        "DROP TABLE search_idx",
    ],
)
def test_a_damaged_index_does_not_keep_a_search_from_its_answer(store: Store, damage: str) -> None:
    store.append("x", *say("first", "second"))
    store.index()
    store.db.execute(damage)

    with closing(store.reopened()) as reopened:
        assert find(reopened, "second") == [2]


def test_a_damaged_index_can_be_told_and_dropped(store: Store) -> None:
    store.append("x", *say("first", "second"))
    store.index()
    store.db.execute("DELETE FROM search_data")

    with closing(store.reopened()) as reopened:
        with pytest.raises(apsw.CorruptError) as raised:
            reopened.truncate("x", 1)
        assert search_index.is_damage(raised.value)
        assert not search_index.is_damage(apsw.CorruptError())
        search_index.drop(reopened.db)
        reopened.truncate("x", 1)
        reopened.index()
        assert find(reopened, "first") == [1]
        assert find(reopened, "second") == []


# -- other versions of this library, and of Python


def test_an_index_of_a_newer_version_is_left_alone(store: Store) -> None:
    store.append("x", *say("first"))
    store.index()
    store.db.execute("UPDATE search_state SET layout = layout + 1; DELETE FROM search_docsize")

    assert not search_index.update(store.db, 10)
    assert not search_index.purge(store.db)
    assert search_index.behind(store.db) == 0
    assert find(store, "first") == [1]
    assert indexed(store) == set()


def test_an_index_of_an_older_version_is_made_again(store: Store) -> None:
    store.append("x", *say("first"))
    store.index()
    store.db.execute("UPDATE search_state SET layout = layout - 1; DELETE FROM search_docsize")

    assert find(store, "first") == [1]
    assert search_index.behind(store.db) == 1
    store.index()
    assert indexed(store) == {1}


def test_characters_without_a_meaning_yet_are_not_looked_up() -> None:
    # A later Unicode may fold them; the index may have been made with it.
    assert search_index.grams(["abc\u0378def\U0003fffdg"]) == (["abc", "def"], [])
    assert search_index.grams(["a\u0378bc"]) == ([], ["bc"])
    assert search_index.grams(["\u0378\0"]) is None


def test_a_text_with_such_a_character_is_always_read(store: Store) -> None:
    store.append("x", *say("abc\u0378", "abc"))
    store.index()

    assert store.db.execute("SELECT record FROM search_loose").fetchall() == [(1,)]
    assert find(store, "abc") == [2, 1]
