"""Stores that break the contract on purpose; the kit has to say so of each. Run by test_broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from asynchistory import Appended, HistoryQuery, MemoryStorage, Storage
from asynchistory.queries import HistoryPage
from asynchistory.storage.port import Batch, ForkPlan
from asynchistory.testing.contract import StoreContract


class Broken(StoreContract):
    durable = False
    kind: type[Storage]

    def make_storage(self, folder: Path) -> Storage:
        return self.kind()


class Losing(MemoryStorage):
    """Drops one record in a thousand."""

    seen = 0

    async def append(self, batch: Batch) -> Appended:
        kept = []
        for row in batch.rows:
            self.seen += 1
            if self.seen % 1_000:
                kept.append(row)
        return await super().append(replace(batch, rows=kept))


class Reordering(MemoryStorage):
    """Now and then hands out two records in each other's place."""

    async def read(self, query: HistoryQuery) -> HistoryPage:
        page = await super().read(query)
        records: list[Any] = list(page.records)
        if len(records) > 30:
            one, other = records[20], records[21]
            records[20], records[21] = replace(other, seq=one.seq), replace(one, seq=other.seq)
        return replace(page, records=tuple(records))


class Forgetful(MemoryStorage):
    """Forgets idempotency keys."""

    async def append(self, batch: Batch) -> Appended:
        return await super().append(replace(batch, idempotency_key=None))


class Sharing(MemoryStorage):
    """Shares a prefix, and does not copy it when it is changed: the fork loses it."""

    async def fork(self, plan: ForkPlan) -> Any:
        session = await super().fork(plan)
        parent, child = self._homes[plan.session_id], self._homes[plan.new_id]
        shrink = parent.shrink

        def both(seq: int, epoch: int) -> None:
            shrink(seq, epoch)
            child.rows = child.rows[:seq] + child.rows[child.session.fork_seq :]

        parent.shrink = both  # type: ignore[method-assign]
        return session


class TestLosing(Broken):
    kind = Losing


class TestReordering(Broken):
    kind = Reordering


class TestForgetful(Broken):
    kind = Forgetful


class TestSharing(Broken):
    kind = Sharing
