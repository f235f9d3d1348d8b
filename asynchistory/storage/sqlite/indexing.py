"""The writer's idle time, in which it keeps the search index up to date."""

from __future__ import annotations

from contextlib import suppress

import apsw

from asynchistory.storage.sqlite import search_index

#: Records that are read, and not indexed, in a store that has no index yet.
FEW = 2_000
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
            self.behind = self._step(db)
        except apsw.Error as error:
            # Searches do without what is not indexed. The next write brings the next attempt.
            self.behind = False
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if search_index.is_damage(error):
                    search_index.drop(db)
        return self.behind

    def _step(self, db: apsw.Connection) -> bool:
        if not search_index.exists(db) and search_index.behind(db) <= FEW:
            return False
        db.execute("BEGIN IMMEDIATE")
        more = search_index.update(db, SLICE)
        db.execute("COMMIT")
        return more
