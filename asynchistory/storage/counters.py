"""What a store counts of its commits."""

from __future__ import annotations

from asynchistory.queries import StoreStatistics


class Counters:
    """How busy a store is, and what its commits take."""

    def __init__(self) -> None:
        self._commits = 0
        self._writes = 0
        self._largest = 0
        self._total = 0.0
        self._longest = 0.0
        self._last: float | None = None
        #: Seconds that commits took lately.
        self.recent_commit: float = 0.0

    def committed(self, writes: int, seconds: float) -> None:
        """A transaction with so many writes took so long."""
        self._last = seconds
        self.recent_commit += (seconds - self.recent_commit) / 4
        self._commits += 1
        self._writes += writes
        self._largest = max(self._largest, writes)
        self._total += seconds
        self._longest = max(self._longest, seconds)

    def statistics(self, queued: int, waiting: int = 0) -> StoreStatistics:
        """The counts, with the lengths of the queue now."""
        return StoreStatistics(
            queued=queued,
            waiting=waiting,
            commits=self._commits,
            writes=self._writes,
            largest_group=self._largest,
            last_commit=self._last,
            mean_commit=self._total / self._commits if self._commits else None,
            longest_commit=self._longest if self._commits else None,
        )
