"""What the check of a whole store has found."""

from __future__ import annotations

from asynchistory.queries import Verification
from asynchistory.records import CorruptRecord

#: At most so many damaged records, and so many problems, are told one by one.
MOST = 1_000


class Findings:
    """What a verification has found so far."""

    def __init__(self) -> None:
        self.sessions: int = 0
        self.records: int = 0
        self._damaged: list[CorruptRecord] = []
        self._problems: list[str] = []
        self._untold = 0

    def damage(self, record: CorruptRecord) -> None:
        """A record that cannot be read."""
        if len(self._damaged) < MOST:
            self._damaged.append(record)
        else:
            self._untold += 1

    def problem(self, text: str) -> None:
        """Something else that is wrong, in a text without content."""
        if len(self._problems) < MOST - 1:
            self._problems.append(text)
        else:
            self._untold += 1

    def result(self) -> Verification:
        """All of it."""
        untold = [f"{self._untold} further faults"] if self._untold else []
        return Verification(
            sessions=self.sessions,
            records=self.records,
            damaged=tuple(self._damaged),
            problems=(*self._problems, *untold),
        )
