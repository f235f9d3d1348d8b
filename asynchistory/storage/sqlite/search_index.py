"""The index of a SQLite store's text, which tells a search where to look.

It only narrows: what it proposes is read and matched like every other record,
so that no answer depends on it. It holds, of each folded text, the trigrams of
its words, without their places. Two blanks end each word, so that its last
characters begin trigrams too, and a shorter term is found by the trigrams that
it begins.

:func:`update` makes it and brings it up to date, from the oldest record on, a
millisecond or two at a time. The records up to a mark are in it; a search reads
those after the mark. An append knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple
from unicodedata import category

import apsw

from asynchistory.codec import TYPE_CODES, decode_row
from asynchistory.storage.sqlite.segments import COLUMNS
from asynchistory.storage.sqlite.sql import rows, scalar
from asynchistory.storage.text import SEARCHED_TYPES, fold, searchable_text

#: What the tables hold and how. In a file that has a higher one, the index is left alone.
LAYOUT = 1
#: The types of record that have text, as SQL takes them.
TEXT_TYPES = ", ".join(str(TYPE_CODES[name]) for name in SEARCHED_TYPES)

#: Bytes of text that one slice indexes, more or less.
_SLICE = 12_000
#: A text with more bytes than this in distinct words would make a slice too long. It is kept out
#: of the index, and every search reads it.
_LARGE = 64_000
#: Pages that one slice merges.
_PAGES = 8
#: Trigrams that one look-up asks for.
_MOST_GRAMS = 24
#: A beginning with more trigrams than this in a record, on average, is in most records.
_COMMON = 2

# automerge, crisismerge: never merge by the way, where it can take a second, but in slices.
_MAKE = f"""
CREATE TABLE search_state(layout INTEGER NOT NULL, upto INTEGER NOT NULL);
INSERT INTO search_state VALUES({LAYOUT}, 0);
CREATE TABLE search_loose(record INTEGER PRIMARY KEY);
CREATE VIRTUAL TABLE search USING fts5(
    text, content='', contentless_delete=1, detail=none, tokenize='trigram case_sensitive 1'
);
INSERT INTO search(search, rank) VALUES('automerge', 0), ('crisismerge', 1999), ('usermerge', 8);
CREATE VIRTUAL TABLE search_terms USING fts5vocab('search', 'instance');

-- A rowid at the end is given again after its record is deleted: the mark never stands beyond it.
CREATE TRIGGER search_removes AFTER DELETE ON records BEGIN
    DELETE FROM search WHERE rowid = OLD.rowid;
    DELETE FROM search_loose WHERE record = OLD.rowid;
    UPDATE search_state SET upto = (SELECT coalesce(max(rowid), 0) FROM records)
    WHERE upto > (SELECT coalesce(max(rowid), 0) FROM records);
END;
"""
_DROP = """
DROP TRIGGER IF EXISTS search_removes;
DROP TABLE IF EXISTS search_terms;
DROP TABLE IF EXISTS search;
DROP TABLE IF EXISTS search_loose;
DROP TABLE IF EXISTS search_state;
"""


class Grams(NamedTuple):
    """What to look up: trigrams that a text has; or if none is known, beginnings of such."""

    whole: list[str]
    begun: list[str]


class _State(NamedTuple):
    layout: int
    upto: int


# -- keeping it --------------------------------------------------------------------------------


def exists(db: apsw.Connection) -> bool:
    """Whether there is an index, which :func:`update` is to keep up to date."""
    return bool(rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'search_state'"))


def mark(db: apsw.Connection) -> int:
    """The rowid of the last record that is in the index with all before it; 0 without one."""
    state = _state(db)
    return state.upto if state is not None and state.layout == LAYOUT else 0


def behind(db: apsw.Connection) -> int:
    """How many records :func:`update` has to index, at most: all of them without an index."""
    state = _state(db)
    if state is not None and state.layout > LAYOUT:
        return 0
    last: int = scalar(db, "SELECT coalesce(max(rowid), 0) FROM records")
    return last - mark(db)


def update(db: apsw.Connection, most: int) -> bool:
    """Do the next of what the index needs: up to ``most`` records, a millisecond or two.

    Makes the index if there is none. To be called in a write transaction.

    Returns:
        False if there was nothing to do; otherwise there may be more.
    """
    state = _state(db)
    if state is not None and state.layout > LAYOUT:
        return False
    if state is None or state.layout < LAYOUT:
        drop(db)
        db.execute(_MAKE)
        state = _State(LAYOUT, 0)
    if _merge(db, _PAGES):
        return True
    upto = _index(db, state.upto, most)
    if upto == state.upto:
        return False
    db.execute("UPDATE search_state SET upto = ?", (upto,))
    return True


def purge(db: apsw.Connection) -> bool:
    """Do the next of what makes the index forget deleted records: a millisecond or two.

    A deleted record is not found again, but its trigrams stay until their part of
    the index is merged. This merges all. To be called in write transactions
    until there is no more; then the index's tables have nothing of deleted
    records. Free pages of the file have, unless ``PRAGMA secure_delete`` is on.

    Returns:
        Whether there is more.
    """
    state = _state(db)
    return state is not None and state.layout == LAYOUT and _merge(db, -_PAGES)


def drop(db: apsw.Connection) -> None:
    """Remove the index. To be called in a write transaction."""
    db.execute(_DROP)


def is_damage(error: BaseException) -> bool:
    """Whether it is the index that is damaged: after :func:`drop`, the same will work.

    Besides a search, that can meet whatever deletes records.
    """
    code = getattr(error, "extendedresult", None)
    return isinstance(error, apsw.CorruptError) and code == apsw.SQLITE_CORRUPT_VTAB


def _state(db: apsw.Connection) -> _State | None:
    found = rows(db, "SELECT layout, upto FROM search_state") if exists(db) else []
    return _State(*found[0]) if found else None


def _merge(db: apsw.Connection, pages: int) -> bool:
    before = db.total_changes()
    db.execute("INSERT INTO search(search, rank) VALUES('merge', ?)", (pages,))
    return db.total_changes() - before > 1  # one is the command itself


def _index(db: apsw.Connection, upto: int, most: int) -> int:
    """Index records after ``upto``; returns the last one that was looked at."""
    texts: list[tuple[int, str]] = []
    loose: list[tuple[int]] = []
    size = 0
    with closing(
        db.execute(
            f"SELECT r.rowid, r.type IN ({TEXT_TYPES}), {COLUMNS} FROM records r "
            "WHERE r.rowid > ? ORDER BY r.rowid LIMIT ?",
            (upto, most),
        )
    ) as found:
        for upto, has_text, *row in found:
            text = _words(searchable_text(decode_row("", tuple(row)))) if has_text else ""
            added = len(text.encode())
            if added > _LARGE or not _settled(text):
                loose.append((upto,))
            elif text:
                texts.append((upto, text))
                size += added
            if size >= _SLICE:
                break
    db.executemany("INSERT INTO search(rowid, text) VALUES(?, ?)", texts)
    db.executemany("INSERT INTO search_loose VALUES(?)", loose)
    return upto


def _words(text: str) -> str:
    """A text as the index takes it: its folded words, each once, two blanks after each."""
    words = dict.fromkeys(fold(text).split())
    return "".join([f"{word}\n\n" for word in words])


def _settled(text: str) -> bool:
    """Whether every Python folds the text alike: not if this one's Unicode lacks a character.

    Unicode promises not to change the folding of characters that it has.
    """
    return text.isascii() or not any(category(char) == "Cn" for char in set(text))


# -- looking up --------------------------------------------------------------------------------


def grams(terms: Sequence[str]) -> Grams | None:
    """What to look up for (folded) terms; None if there is nothing that narrows.

    Characters that this Python's Unicode lacks are passed over, since the index
    may have been made by one that folds them; NULs, since the tokenizer does so.
    """
    words = [word for term in terms for word in _known(term.replace("\0", "")).split()]
    longest = max(map(len, words), default=0)
    if longest < 3:
        begun = [word for word in words if len(word) == longest]
        return Grams([], begun) if begun else None
    whole = dict.fromkeys(word[place : place + 3] for word in words for place in _places(len(word)))
    step = -(-len(whole) // _MOST_GRAMS)
    return Grams(list(whole)[::step], [])


def _known(term: str) -> str:
    return "".join(" " if category(char) in ("Cn", "Cs") else char for char in term)


def _places(length: int) -> list[int]:
    """Where trigrams begin that cover a word, as few as do."""
    return sorted({*range(0, length - 2, 3), length - 3}) if length > 2 else []


def candidates(db: apsw.Connection, wanted: Grams, upto: int) -> Generator[int]:
    """Rowids up to ``upto``, which the index has, of records that may match; the newest first.

    To be closed, since it may stand in the middle of a statement.
    """
    return _with_whole(db, wanted.whole, upto) if wanted.whole else _with_begun(db, wanted, upto)


def _with_whole(db: apsw.Connection, whole: list[str], upto: int) -> Generator[int]:
    quoted = ['"' + gram.replace('"', '""') + '"' for gram in whole]
    with closing(
        db.execute(
            "SELECT rowid FROM search WHERE search MATCH ?1 AND rowid <= ?2 "
            "UNION ALL SELECT record FROM search_loose WHERE record <= ?2 ORDER BY 1 DESC",
            (" AND ".join(quoted), upto),
        )
    ) as found:
        for (rowid,) in found:
            yield rowid


def _with_begun(db: apsw.Connection, wanted: Grams, upto: int) -> Generator[int]:
    sets = [found for begun in wanted.begun if (found := _begun_by(db, begun, upto)) is not None]
    if not sets:
        yield from range(upto, 0, -1)
        return
    loose = {rowid for (rowid,) in rows(db, "SELECT record FROM search_loose")}
    found = set.intersection(*sets) | loose
    yield from sorted((rowid for rowid in found if rowid <= upto), reverse=True)


def _begun_by(db: apsw.Connection, begun: str, upto: int) -> set[int] | None:
    """Who has a trigram that begins so; None if it is so common that reading is quicker."""
    found: set[int] = set()
    with closing(
        db.execute(
            "SELECT doc FROM search_terms WHERE term >= ? AND term < ?",
            (begun, begun + "\U0010ffff"),
        )
    ) as entries:
        for count, (rowid,) in enumerate(entries, 1):
            if count > _COMMON * upto:
                return None
            found.add(rowid)
    return found
