"""What a search compares and what it shows of a hit, in every script."""

from __future__ import annotations

from time import perf_counter
from unicodedata import normalize

import pytest
from hypothesis import given, strategies as st

from asynchistory import InvalidQueryError
from asynchistory.storage.snippet import AFTER, BEFORE, excerpt
from asynchistory.storage.text import fold, search_terms
from tests.unit.search_setting import ALPHABET

ANY_TEXT = st.text(ALPHABET) | st.text()


def shown(text: str, terms: list[str]) -> str:
    """The excerpt, with what is highlighted in brackets."""
    line, highlights = excerpt(text, fold(text), terms)
    for start, end in reversed(highlights):
        line = f"{line[:start]}[{line[start:end]}]{line[end:]}"
    return line


# -- folding


@given(ANY_TEXT)
def test_equivalent_texts_fold_to_the_same(text: str) -> None:
    assert fold(normalize("NFC", text)) == fold(normalize("NFD", text)) == fold(text)


@given(ANY_TEXT)
def test_a_folded_text_is_folded(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    "texts",
    [
        ("STRASSE", "straße", "STRAẞE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", "σι\u0301συφοσ"),
        ("é", "e\u0301", "É", "E\u0301"),
        ("ǰ", "J\u030c", "j\u030c"),
        ("ᾳ", "ΑΙ", "α\u0345"),
        ("각", "\u1100\u1161\u11a8", "가\u11a8"),
        ("Å", "\u212b", "a\u030a"),
        ("ệ", "e\u0302\u0323", "e\u0323\u0302"),
        ("ﬁ", "FI"),
        ("İ", "i\u0307"),
    ],
    ids=lambda texts: texts[0],
)
def test_these_are_the_same(texts: tuple[str, ...]) -> None:
    assert len({fold(text) for text in texts}) == 1


@pytest.mark.parametrize("texts", ["eé", "lł", "iı", "ⅷ8", "ｱア", "①1", "가각", "กกิ", "אאָ"])
def test_these_differ(texts: str) -> None:
    one, *other = texts

    assert fold(one) != fold("".join(other))


@pytest.mark.parametrize(
    "text",
    ["a" + "\u0301\u0323" * 200_000, "\u0345\u0301" * 200_000, "é" + "\u0323\u0301x" * 200_000],
    ids=["one letter", "no letter", "many letters"],
)
def test_marks_without_end_are_folded_and_shown_in_no_time(text: str) -> None:
    """Sorting so many as Unicode does takes minutes."""
    start = perf_counter()
    folded = fold(text)
    excerpt(text, folded, [folded[100_000:100_003]])

    assert perf_counter() - start < 20


# -- terms


def test_the_terms_of_a_search() -> None:
    assert search_terms(" Two  words\ttwo\nC++ ") == ["two", "words", "c++"]


@pytest.mark.parametrize("text", ["", " ", "\n\t\x1c\u2028", None, 5])
def test_no_terms(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="at least one word"):
        search_terms(text)


# -- excerpts


@pytest.mark.parametrize(
    ("text", "terms", "wanted"),
    [
        ("Hello world", ["world"], "Hello [world]"),
        ("x" * 100 + "match" + "y" * 200, ["match"], "…" + "x" * 30 + "[match]" + "y" * 85 + "…"),
        ("x" * 50 + "y" * 200, ["y" * 150], "…" + "x" * 30 + "[" + "y" * 90 + "]…"),
        ("Die Straße", ["strasse"], "Die [Straße]"),
        ("Die Straße", ["as"], "Die Str[aß]e"),
        ("Die Straße", ["s"], "Die [S]tra[ß]e"),
        ("ﬁne ﬁne", ["fine"], "[ﬁne] [ﬁne]"),
        ("oﬃce", ["i"], "o[ﬃ]ce"),
        ("İİİ yes", ["yes"], "İİİ [yes]"),
        ("e\u0301e\u0301 cafe\u0301", ["café"], "e\u0301e\u0301 [cafe\u0301]"),
        ("\u1100\u1161\u11a8 가", ["가"], "\u1100\u1161\u11a8 [가]"),
        ("กำลังกิน", ["ก"], "[ก]ำลัง[ก]ิน"),
        ("今天天气很好", ["天气"], "今天[天气]很好"),
        ("a.b a+b", ["a.b"], "[a.b] a+b"),
        ("aab", ["a", "aa"], "[aa]b"),
        ("abcd", ["abc", "bcd"], "[abc]d"),
        ("one two one", ["two", "one"], "[one] [two] [one]"),
        ("line\none\t two", ["one"], "line [one] two"),
        ("👩\u200d🚀 here", ["👩\u200d🚀"], "[👩\u200d🚀] here"),
        ("ß" * 5_000 + "end", ["end"], "…" + "ß" * 30 + "[end]"),
        ("e\u0301" * 5_000 + "end", ["end"], "…" + "e\u0301" * 15 + "[end]"),
    ],
)
def test_an_excerpt(text: str, terms: list[str], wanted: str) -> None:
    assert shown(text, terms) == wanted


@given(ANY_TEXT, st.integers(0, 200), st.integers(1, 12), st.integers(0, 300))
def test_what_is_highlighted_matches(text: str, place: int, size: int, before: int) -> None:
    text = "ß\u0301x " * before + text + " \u0301ﬁ" * 40
    folded = fold(text)
    terms = folded[len(fold("ß\u0301x ")) * before + place :][:size].split() or ["x"]
    if not all(term in folded for term in terms):
        return
    line, highlights = excerpt(text, folded, terms)

    assert "".join(fold(text).split()).find("".join(fold(line.strip("…")).split())) >= 0
    assert len(line) <= 2 + BEFORE + AFTER + 2 * 64
    assert highlights
    assert list(highlights) == sorted(highlights)
    last = 0
    for start, end in highlights:
        assert last <= start < end <= len(line)
        last = end
        piece = fold(line[start:end])
        assert any(term in piece for term in terms) or end >= len(line) - 1
