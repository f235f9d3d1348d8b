"""The writer's idle time, in which it keeps the search index up to date."""

from __future__ import annotations

from contextlib import suppress

import apsw

from asynchistory.storage.sqlite import search_index

#: Records that are read, and not indexed, in a store that has no index yet.
FEW = 2_000
#: Records that are read, and not indexed, in one that has an index: indexed one by one they would
#: write seven times as much.
ENOUGH = 200
#: Records that one slice indexes at most.
SLICE = 200


class Indexing:
    """Small steps, each a transaction of its own, for as long as nobody writes.

    Attributes:
        wanted: somebody searches this store.
        behind: something was written since the index was found to be up to date.
    """

    def __init__(self) -> None:
        self.wanted: bool = False
        self.behind: bool = True

    def opened(self, db: apsw.Connection) -> None:
        """Go on with an index that the file has."""
        self.wanted = search_index.exists(db)

    def work(self, db: apsw.Connection) -> bool:
        """Take one step; False if there is none to take now."""
        if not (self.wanted and self.behind):
            return False
        try:
            self.behind = _due(db) and _step(db)
        except apsw.Error as error:
            # Searches do without what is not indexed. The next write brings the next attempt.
            self.behind = False
            discarded(db, error)
        return self.behind


def _due(db: apsw.Connection) -> bool:
    return search_index.behind(db) > (ENOUGH if search_index.exists(db) else FEW)


def _step(db: apsw.Connection) -> bool:
    timeout, synchronous = db.pragma("busy_timeout"), db.pragma("synchronous")
    try:
        # Nobody waits for this, so neither does it wait for another process. What a power cut
        # takes of it is indexed again.
        db.set_busy_timeout(0)
        db.pragma("synchronous", 1)
        db.execute("BEGIN IMMEDIATE")
        more = search_index.update(db, SLICE)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.pragma("synchronous", synchronous)
        db.set_busy_timeout(timeout)
    return more


def discarded(db: apsw.Connection, error: BaseException) -> bool:
    """Drop the index if the error says that it is damaged, so that what failed can be done again.

    What deletes records meets such errors too. To be called outside of a transaction.
    """
    if search_index.is_damage(error):
        with suppress(apsw.Error):
            search_index.drop(db)
            return True
    return False
