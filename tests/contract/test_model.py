"""Any sequence of calls, on a store and on plain lists: a machine for each store and loop.

A few examples run with the suite; ``HYPOTHESIS_PROFILE=long`` runs many more.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, ClassVar, NamedTuple
from unittest import TestCase

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)
from msgspec.structs import replace

from asynchistory import AsyncHistoryError, HistoryQuery, SessionNotFoundError
from tests.contract import drawing
from tests.contract.conftest import STORES
from tests.contract.drawing import beliefs, choices, handles, keys, names, owners, places
from tests.contract.driving import Cursor, Pair
from tests.contract.model import outcome
from tests.contract.sums import GROUPS, KINDS, assert_statistics

#: Examples a machine, and steps an example.
PROFILES = {"short": (75, 30), "long": (2000, 50)}
EXAMPLES, STEPS = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "short")]


class Write(NamedTuple):
    """A call with an idempotency key."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


class TreeMachine(RuleBasedStateMachine):
    """Forks of forks, and what makes and cuts them: always on a session that is there."""

    backend: ClassVar[str]
    store: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(self.backend, STORES[self.store])
        self.model = self.pair.model

    def teardown(self) -> None:
        self.pair.close()

    @invariant()
    def every_session_is_the_models(self) -> None:
        self.pair.portal.call(self.pair.check_sessions)

    def pick(self, choice: int) -> str:
        there = sorted(self.model.chats) or ["a"]
        return there[choice % len(there)]

    @rule(by=handles, choice=choices, records=drawing.some)
    def grow(self, by: int, choice: int, records: Any) -> None:
        self.pair.write(by, "append", self.pick(choice), *self.pair.stamp(records))

    @precondition(lambda self: 0 < len(self.model.chats) < len(drawing.NAMES))
    @rule(by=handles, choice=choices, back=st.sampled_from([0, 0, 0, 1, 2]), records=drawing.some)
    def branch(self, by: int, choice: int, back: int, records: Any) -> None:
        name, new = self.pick(choice), min(set(drawing.NAMES) - set(self.model.chats))
        at_seq = max(0, self.model.length(name) - back)
        self.pair.write(by, "fork", name, new, at_seq=at_seq, epoch=None, **drawing.NO_FIELDS)
        self.pair.write(by, "append", new, *self.pair.stamp(records))

    @precondition(lambda self: self.model.chats)
    @rule(by=handles, choice=choices, place=places)
    def cut(self, by: int, choice: int, place: int) -> None:
        name = self.pick(choice)
        self.pair.write(by, "truncate", name, place % (self.model.length(name) + 1))

    @precondition(lambda self: len(self.model.chats) > 1)
    @rule(by=handles, choice=choices)
    def fell(self, by: int, choice: int) -> None:
        self.pair.write(by, "delete_session", self.pick(choice))

    @rule(by=handles)
    def count(self, by: int) -> None:
        assert self.pair.call(by, "count") == self.model.count()


class HistoryMachine(TreeMachine):
    """Calls of any kind in any order."""

    keyed = Bundle("keyed")
    cursors = Bundle("cursors")

    # -- writes

    def write(self, by: int, method: str, name: str, *args: Any, **options: Any) -> Any:
        options["expected_seq"] = self.pair.seq(name, options.pop("belief"))
        self.pair.write(by, method, name, *args, **options)
        if options["idempotency_key"] is None:
            return multiple()
        return Write(method, (name, *args), options)

    @rule(target=keyed, by=handles, name=names, records=drawing.batches, key=keys, belief=beliefs)
    def append(self, by: int, name: str, records: Any, key: Any, belief: Any) -> Any:
        records = self.pair.stamp(records)
        return self.write(by, "append", name, *records, idempotency_key=key, belief=belief)

    @rule(target=keyed, by=handles, name=names, records=drawing.rewrites, key=keys, belief=beliefs)
    def replace(self, by: int, name: str, records: Any, key: Any, belief: Any) -> Any:
        records = self.pair.stamp(records)
        return self.write(by, "replace", name, *records, idempotency_key=key, belief=belief)

    @rule(
        target=keyed, by=handles, name=names, to_seq=places, key=keys, belief=beliefs, epoch=beliefs
    )
    def truncate(self, by: int, name: str, to_seq: int, key: Any, belief: Any, epoch: Any) -> Any:
        options = {"idempotency_key": key, "epoch": self.pair.epoch(name, epoch)}
        return self.write(by, "truncate", name, to_seq, belief=belief, **options)

    @rule(target=keyed, by=handles, name=names, count=places, key=keys, belief=beliefs)
    def pop(self, by: int, name: str, count: int, key: Any, belief: Any) -> Any:
        return self.write(by, "pop", name, count, idempotency_key=key, belief=belief)

    @rule(by=handles, write=keyed)
    def repeat(self, by: int, write: Write) -> None:
        self.pair.write(by, write.method, *write.args, **write.options)

    # -- sessions

    @rule(by=handles, name=names, new=names, at_seq=places, epoch=beliefs, fields=drawing.fields)
    def fork(self, by: int, name: str, new: str, at_seq: int, epoch: Any, fields: Any) -> None:
        options = {"at_seq": at_seq, "epoch": self.pair.epoch(name, epoch)}
        self.pair.write(by, "fork", name, new, **options, **fields)

    @rule(by=handles, name=names, exist_ok=st.booleans(), fields=drawing.fields)
    def create(self, by: int, name: str, exist_ok: bool, fields: Any) -> None:
        self.pair.write(by, "create_session", name, exist_ok=exist_ok, **fields)

    @rule(by=handles, name=names, fields=drawing.changes)
    def update(self, by: int, name: str, fields: Any) -> None:
        self.pair.write(by, "update_session", name, **fields)

    @rule(by=handles, name=names)
    def delete(self, by: int, name: str) -> None:
        self.pair.write(by, "delete_session", name)

    @precondition(lambda self: len(self.model.chats) > 4)
    @rule(by=handles, user=owners)
    def erase(self, by: int, user: str) -> None:
        self.pair.remove(by, "erase_user", user, wanted=lambda: self.model.erase_user(user))

    @precondition(lambda self: len(self.model.chats) > 4)
    @rule(by=handles)
    def prune_the_expired(self, by: int) -> None:
        now = datetime.now(UTC)
        self.pair.remove(by, "prune", None, wanted=lambda: self.model.prune(now, None))

    @precondition(lambda self: len(self.model.chats) > 4)
    @rule(by=handles, place=places, more=st.booleans())
    def prune_the_old(self, by: int, place: int, more: bool) -> None:
        times = sorted(chat.updated_at for chat in self.model.chats.values())
        older_than = times[place % len(times) // 2] + timedelta(microseconds=more)
        now = datetime.now(UTC)
        self.pair.remove(by, "prune", older_than, wanted=lambda: self.model.prune(now, older_than))

    # -- reads

    @rule(target=cursors, by=handles, query=drawing.queries)
    def read(self, by: int, query: HistoryQuery) -> Any:
        return self.pair.check_page(by, query, None) or multiple()

    @rule(target=cursors, by=handles, cursor=cursors, filters=drawing.filters, sizes=drawing.sizes)
    def go_on(self, by: int, cursor: Cursor, filters: Any, sizes: Any) -> Any:
        place = {cursor.direction: cursor.text}
        query = HistoryQuery(cursor.session_id, **place, **filters, **sizes)
        return self.pair.check_page(by, query, cursor) or multiple()

    @rule(by=handles, name=names, count=places)
    def last(self, by: int, name: str, count: int) -> None:
        chat = self.model.chats.get(name)
        for level in self.pair.levels(by, name):
            found = self.pair.call(by, "last", name, count, level=level)
            if chat is None:
                assert isinstance(found, SessionNotFoundError)
            else:
                assert list(found) == (chat.records[-count:] if count else [])

    @rule(
        by=handles,
        user=st.none() | owners,
        metadata=drawing.metadata_filters,
        order=st.sampled_from(["created", "updated"]),
        limit=st.sampled_from([1, 2, 100]),
    )
    def list_sessions(self, by: int, user: Any, metadata: Any, order: str, limit: int) -> None:
        wanted = self.model.list_sessions(user, metadata, order)
        options = {"user_id": user, "metadata": metadata, "order": order, "limit": limit}
        found: list[Any] = []
        cursor = None
        while True:
            page = self.pair.call(by, "list_sessions", after=cursor, **options)
            assert len(page) <= limit
            found += page
            if (cursor := page.next) is None:
                break
        assert len(found) == len(wanted)
        for chat, session in zip(wanted, found, strict=True):
            self.pair.epochs.compare(chat.session(), session)

    @rule(
        by=handles,
        kind=st.sampled_from(sorted(KINDS)),
        group_by=st.sampled_from([None, *GROUPS]),
        options=drawing.statistics,
    )
    def statistics(self, by: int, kind: str, group_by: Any, options: Any) -> None:
        calls = self.model.calls(**options)
        check = partial(assert_statistics, self.pair.handles[by], calls, kind, group_by, **options)
        self.pair.portal.call(check)

    @rule(by=handles, name=names)
    def summary(self, by: int, name: str) -> None:
        wanted = outcome(lambda: self.model.summary(name))
        found = self.pair.call(by, "get_session_summary", name)
        if not isinstance(wanted, AsyncHistoryError):
            self.pair.epochs.compare(wanted.session, found.session)
            wanted = replace(wanted, session=found.session)
        self.pair.epochs.compare(wanted, found)

    @rule(by=handles)
    def empty_the_cache(self, by: int) -> None:
        self.pair.handles[by].cache.clear()


def case(machine: type[TreeMachine], store: str, backend: str) -> type[TestCase]:
    """The machine for one store and loop, as pytest runs it."""
    name = f"{machine.__name__}{store.title()}{backend.title()}"
    made = type(name, (machine,), {"backend": backend, "store": store}).TestCase
    made.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return made


for _machine, _store, _backend in product(
    (TreeMachine, HistoryMachine), STORES, ("asyncio", "trio")
):
    _case = case(_machine, _store, _backend)
    globals()[f"Test{_machine.__name__}On{_store.title()}On{_backend.title()}"] = _case
del _case  # pytest would collect it once more
