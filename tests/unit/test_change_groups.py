"""Several changes in one transaction, some rolled back: against plain lists."""

from __future__ import annotations

import random
from collections.abc import Callable

import apsw
import pytest

from asynchistory import LLMRequest, Message, TokenUsage
from asynchistory.codec import encode_record
from asynchistory.records import AnyRecord
from asynchistory.storage.calls import call_facts
from asynchistory.storage.port import Batch, Cut, ForkPlan
from asynchistory.storage.sqlite import changes
from asynchistory.storage.sqlite.migrations import MIGRATIONS
from asynchistory.storage.sqlite.segments import Segment, segments, select_records
from asynchistory.storage.sqlite.sql import rows, scalar
from asynchistory.storage.sqlite.stopping import Stop
from asynchistory.storage.sqlite.verify import verify
from asynchistory.storage.sqlite.writes import Place, WriteGroup

NAMES = "abcdefgh"
#: Transactions of a run.
STEPS = 40
#: Of the kinds of change, how often each is drawn.
KINDS = ["grow"] * 6 + ["fork"] * 5 + ["cut"] * 4 + ["rewrite"] * 2 + ["delete"] * 3


class Play:
    """A database, and the ids of the records that each session must have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.db = apsw.Connection(":memory:")
        for step in MIGRATIONS:
            self.db.execute(step).fetchall()
        self.places: dict[str, Place] = {}
        self.wanted: dict[str, list[bytes]] = {}

    def transaction(self) -> None:
        before = {name: list(ids) for name, ids in self.wanted.items()}
        self.db.execute("BEGIN")
        group = WriteGroup(self.db, self.places)
        for _ in range(self.random.choice([1, 1, 2, 3, 6])):
            change: Callable[[WriteGroup], None] = getattr(self, self.random.choice(KINDS))
            change(group)
        group.flush()
        if self.random.random() < 0.1:
            self.db.execute("ROLLBACK")
            self.places.clear()
            self.wanted = before
        else:
            self.db.execute("COMMIT")

    def check(self) -> None:
        found = dict(rows(self.db, "SELECT id, sid FROM sessions"))
        assert found.keys() == self.wanted.keys()
        for name, ids in self.wanted.items():
            seq = scalar(self.db, "SELECT seq FROM sessions WHERE id = ?", (name,))
            stored = select_records(self.db, segments(self.db, found[name], 0, seq))
            assert [(row[0], row[3]) for row in stored] == list(enumerate(ids, 1))

    def verify(self) -> None:
        self.db.execute("BEGIN")
        assert verify(self.db, stop=Stop()).ok

    # -- changes

    def grow(self, group: WriteGroup) -> None:
        name = self.random.choice(NAMES)
        batch, ids = self.batch(name, self.random.randint(1, 4))
        group.append(batch)
        self.wanted.setdefault(name, []).extend(ids)

    def rewrite(self, group: WriteGroup) -> None:
        name = self.random.choice(NAMES)
        batch, self.wanted[name] = self.batch(name, self.random.randint(0, 3))
        changes.replace(group, batch)

    def fork(self, group: WriteGroup) -> None:
        free = sorted(set(NAMES) - set(self.wanted))
        if not self.wanted or not free:
            return
        name, new = self.some(), self.random.choice(free)
        seq = max(0, len(self.wanted[name]) - self.random.choice([0, 0, 0, 1, 2, 3]))
        owner = self.random.choice([None, None, None, "another"])
        changes.fork(group, ForkPlan(name, new, seq, None, owner, None, None, None))
        self.wanted[new] = self.wanted[name][:seq]

    def cut(self, group: WriteGroup) -> None:
        if not self.wanted:
            return
        name = self.some()
        seq = self.random.randint(0, len(self.wanted[name]))
        changes.truncate(group, Cut(name, to_seq=seq, keep=self.random.random() < 0.5))
        del self.wanted[name][seq:]

    def delete(self, group: WriteGroup) -> None:
        if self.wanted:
            name = self.some()
            assert changes.delete(group, name)
            del self.wanted[name]

    # -- what they are made of

    def some(self) -> str:
        return self.random.choice(sorted(self.wanted))

    def batch(self, name: str, count: int) -> tuple[Batch, list[bytes]]:
        records = [self.record() for _ in range(count)]
        stored = [encode_record(record) for record in records]
        return Batch(name, stored, call_facts(records, stored)), [row.record_id for row in stored]

    def record(self) -> AnyRecord:
        call = f"call-{self.random.randrange(6)}"
        return self.random.choice(
            [
                Message.of("user", "hello"),
                LLMRequest(request_id=call, provider="p", model="m"),
                TokenUsage(request_id=call, provider="p", model="m", input_tokens=7),
            ]
        )


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_changed_in_one_transaction(seed: int) -> None:
    play = Play(seed)
    for _ in range(STEPS):
        play.transaction()
        play.check()
    play.verify()


def test_a_session_whose_base_is_missing_has_its_own_records_left() -> None:
    play = Play(0)
    play.db.execute(
        "INSERT INTO sessions(sid, id, created, updated, epoch, seq, base, base_seq) "
        "VALUES(1, 'chat', 0, 0, 1, 5, 99, 2)"
    )
    assert segments(play.db, 1, 0, 5) == [Segment(1, 2, 5)]
