"""The search of the memory store: which records it reads, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from asynchistory.queries import SearchHit, SearchQuery
from asynchistory.records import StoredRecord
from asynchistory.storage.hits import hits
from asynchistory.storage.memory.homes import Home


def search(homes: Mapping[str, Home], query: SearchQuery) -> list[SearchHit]:
    """See :meth:`asynchistory.storage.port.Storage.search`."""
    if query.session_id is None:
        return hits(_of_store(homes, query.user_id), query)
    home = homes.get(query.session_id)
    if home is None or query.user_id not in (None, home.session.user_id):
        return []
    return hits((home.record(seq) for seq in range(len(home.rows), 0, -1)), query)


def _of_store(homes: Mapping[str, Home], user_id: str | None) -> Iterator[StoredRecord]:
    """The last written first; what forks share once."""
    found: dict[int, tuple[Home, int]] = {}
    # It belongs to the session that it was written to, or else to the fork that shares most.
    forks = sorted(homes.values(), key=lambda home: -home.session.fork_seq)
    for shared, group in ((False, homes.values()), (True, forks)):
        for home in group:
            for seq, (place, _row) in enumerate(home.rows, 1):
                if shared is (seq <= home.session.fork_seq):
                    found.setdefault(place, (home, seq))
    for place in sorted(found, reverse=True):
        home, seq = found[place]
        if user_id in (None, home.session.user_id):
            yield home.record(seq)
