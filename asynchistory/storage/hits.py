"""What a search finds in records that a store hands it: the same in every store."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from asynchistory.queries import SearchHit, SearchQuery
from asynchistory.records import Message, StoredRecord, ToolCall
from asynchistory.storage.snippet import excerpt
from asynchistory.storage.text import fold, search_terms, searchable_text

#: Of BM25: how soon further occurrences of a word count for less, how much the length of a text
#: counts, and the characters of an ordinary one. What a hit ranks does not depend on the others.
_SATURATION, _WEIGHT_OF_LENGTH, _ORDINARY = 1.2, 0.75, 500


class _Found(NamedTuple):
    record: Message | ToolCall
    text: str
    folded: str


def hits(records: Iterable[StoredRecord], query: SearchQuery) -> list[SearchHit]:
    """The hits of a search, in its order.

    Args:
        records: the newest first. Session and user are those of the query; what
            else it asks for is looked at here. No more are taken than are needed.
        query: a valid one.
    """
    terms = search_terms(query.text)
    found = _found(records, query, terms)
    if query.order == "rank":
        best: Iterable[_Found] = heapq.nlargest(
            query.limit, found, key=lambda each: _rank(each.folded, terms)
        )
    else:
        best = islice(found, query.limit)
    return [_hit(each, terms) for each in best]


def _found(
    records: Iterable[StoredRecord], query: SearchQuery, terms: list[str]
) -> Iterator[_Found]:
    for record in records:
        if isinstance(record, (Message, ToolCall)) and _wanted(record, query):
            text = searchable_text(record)
            folded = fold(text)
            if all(term in folded for term in terms):
                yield _Found(record, text, folded)


def _wanted(record: Message | ToolCall, query: SearchQuery) -> bool:
    if query.record_types is not None and record.record_type not in query.record_types:
        return False
    if query.role is not None and getattr(record, "role", None) != query.role:
        return False
    moment = record.timestamp
    assert moment is not None  # the store gives it
    return (query.start_time is None or moment >= query.start_time) and (
        query.end_time is None or moment < query.end_time
    )


def _rank(folded: str, terms: list[str]) -> float:
    """How well a text fits, by BM25; every hit has every term, so that none is rarer to it."""
    length = 1 - _WEIGHT_OF_LENGTH + _WEIGHT_OF_LENGTH * len(folded) / _ORDINARY
    counts = [folded.count(term) for term in terms]
    return sum(count / (count + _SATURATION * length) for count in counts)


def _hit(found: _Found, terms: list[str]) -> SearchHit:
    snippet, highlights = excerpt(found.text, found.folded, terms)
    return SearchHit(record=found.record, snippet=snippet, highlights=highlights)
