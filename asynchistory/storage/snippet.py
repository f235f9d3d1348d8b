"""The excerpt of a text that shows where a search matched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from unicodedata import category

from asynchistory.storage.text import fold

#: Characters shown before the start of the first match, and from there on.
BEFORE, AFTER = 30, 90

#: Characters that are folded at once where the folded text has other offsets than the text.
_BLOCK = 128
#: A letter and what stands on it, at most; a longer run of marks is cut.
_CLUSTER = 64
_FIRST_MARK = "\u0300"
_BLANKS = re.compile(r"\s+")

_Span = tuple[int, int]


def excerpt(text: str, folded: str, terms: Sequence[str]) -> tuple[str, tuple[_Span, ...]]:
    """The text around the first match, in one line, and where in it terms match.

    Args:
        text: what was searched.
        folded: the same, folded; each term occurs in it.
        terms: folded.

    Returns:
        The excerpt, with ``…`` at an end that is cut, and the offsets (start,
        end) of each match in it, in order and apart. A character that folds to
        several, one of which matches, counts as a whole.
    """
    first, term = min(((folded.find(term), term) for term in terms), key=_earlier)
    left = _origin(text, folded, first)[0]
    right = _origin(text, folded, first + len(term) - 1)[1]
    begin = _cut_before(text, max(0, left - BEFORE))
    end = _cut_after(text, min(len(text), left + AFTER))
    spans = [(left, min(right, end))]
    spans += ((right + low, right + high) for low, high in _matches(text[right:end], terms))
    return _one_line(text, begin, end, spans)


def _earlier(place: tuple[int, str]) -> tuple[int, int]:
    return place[0], -len(place[1])


def _one_line(
    text: str, begin: int, end: int, spans: Sequence[_Span]
) -> tuple[str, tuple[_Span, ...]]:
    edges = [begin, *(edge for span in spans for edge in span), end]
    pieces = [_BLANKS.sub(" ", text[low:high]) for low, high in pairwise(edges)]
    pieces[0] = ("…" if begin else "") + pieces[0]
    pieces[-1] += "…" if end < len(text) else ""
    ends = list(accumulate(map(len, pieces)))
    return "".join(pieces), tuple(zip(ends[::2], ends[1::2], strict=False))


def _matches(text: str, terms: Sequence[str]) -> Iterator[_Span]:
    """Where terms occur in a short text, from left to right, apart; the longer one of two."""
    folded = fold(text)
    origins = _origins(text)
    pattern = "|".join(map(re.escape, sorted(terms, key=len, reverse=True)))
    place = 0
    for match in re.finditer(pattern, folded):
        low, high = max(place, origins[match.start()][0]), origins[match.end() - 1][1]
        if low < high:
            yield low, high
            place = high


def _origin(text: str, folded: str, offset: int) -> _Span:
    """Which characters of the text the character at ``offset`` of the folded text is from."""
    if _in_step(text, folded):
        return offset, offset + 1
    begin = 0
    while True:
        end = _cut_after(text, min(len(text), begin + _BLOCK))
        size = len(fold(text[begin:end]))
        if offset < size or end == len(text):
            low, high = _origins(text[begin:end])[min(offset, size - 1)]
            return begin + low, begin + high
        begin, offset = end, offset - size


def _origins(text: str) -> list[_Span]:
    """For each character of the folded text, which characters of the text it is from."""
    if _in_step(text, fold(text)):
        return [(place, place + 1) for place in range(len(text))]
    origins: list[_Span] = []
    begin = 0
    while begin < len(text):
        if text[begin] < "\x80" and text[begin + 1 : begin + 2] < _FIRST_MARK:
            origins.append((begin, begin + 1))
            begin += 1
            continue
        end = _cut_after(text, begin + 1)
        cluster, parts = fold(text[begin:end]), [char.casefold() for char in text[begin:end]]
        if cluster == "".join(parts):
            for place, part in enumerate(parts, begin):
                origins += [(place, place + 1)] * len(part)
        else:
            origins += [(begin, end)] * len(cluster)
        begin = end
    return origins


def _in_step(text: str, folded: str) -> bool:
    """Whether each character of the text folds to one."""
    return len(folded) == len(text) and folded == text.casefold()


def _cut_before(text: str, place: int) -> int:
    """The last place up to this one where the text can be cut and folded in two."""
    stop = max(0, place - _CLUSTER)
    while place > stop and place < len(text) and _joins(text[place]):
        place -= 1
    return place


def _cut_after(text: str, place: int) -> int:
    """The first place from this one on where the text can be cut and folded in two."""
    stop = min(len(text), place + _CLUSTER)
    while place < stop and _joins(text[place]):
        place += 1
    return place


def _joins(char: str) -> bool:
    """Whether normalisation may join the character to what stands before it.

    Marks, and the few letters that compose: vowels and finals of Hangul and of Kirat Rai.
    """
    if char < _FIRST_MARK:
        return False
    hangul, kirat_rai = "\u1160" <= char <= "\u11ff", char in "\U00016d67\U00016d68"
    return hangul or kirat_rai or category(char)[0] == "M"
