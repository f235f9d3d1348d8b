"""The port of a second tier: where tails are kept that outlive this process or serve others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from asynchistory.codec import Row
from asynchistory.queries import Tail, Version


class TierStatistics(NamedTuple):
    """What a second tier did since it was made. ``open``: it is being left alone for a while.

    Attributes:
        hits: tails that were read from it, and were as the store's version says.
        misses: those that it did not have, or had in another version.
        failures: calls that failed or took too long.
        skipped: calls that were not tried, since it is being left alone.
        written: changes that it was told of.
        open: whether it is being left alone, for it failed.
    """

    hits: int
    misses: int
    failures: int
    skipped: int
    written: int
    open: bool


class SecondTier(ABC):
    """Tails by session and version.

    It may lose anything at any time, and never gives anything but the very
    tail of the version that it is asked for. Nothing here raises for its own
    faults, and only :meth:`get` and :meth:`settle` wait, for a bounded time.
    """

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it is worth asking now."""

    @abstractmethod
    async def get(self, session_id: str, version: Version) -> Tail | None:
        """The tail of this version, None if there is none or it cannot be had."""

    @abstractmethod
    def keep(self, session_id: str, tail: Tail) -> None:
        """Have a tail kept, unless a newer one is."""

    @abstractmethod
    def extend(self, session_id: str, version: Version, rows: Sequence[Row]) -> None:
        """Have a kept tail extended by what was appended, which leads to ``version``."""

    @abstractmethod
    def bury(self, session_id: str, version: Version | None) -> None:
        """Have all forgotten that is of this version or an older one.

        None: whatever is held is of a session that is gone.
        """

    @abstractmethod
    async def settle(self) -> bool:
        """Wait until it has been told of all so far; False if it cannot be reached."""

    @abstractmethod
    def statistics(self) -> TierStatistics:
        """What it did so far."""
