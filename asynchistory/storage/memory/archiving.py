"""The memory store's part in archives: whole sessions in and out, and a check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from asynchistory.codec import Row
from asynchistory.errors import SessionExistsError, UnsupportedError
from asynchistory.queries import Session, Verification
from asynchistory.records import CorruptRecord
from asynchistory.storage.archives import SessionKeys
from asynchistory.storage.calls import CallFacts, calls_in
from asynchistory.storage.memory.base import Homes
from asynchistory.storage.memory.homes import Home
from asynchistory.storage.port import Key

#: At most so many damaged records, and so many problems, are told.
_MOST = 1_000


class Archiving(Homes):
    """Restores sessions, hands out their keys, verifies."""

    async def idempotency_keys(self, session_id: str) -> SessionKeys | None:
        await self._enter()
        with self._lock:
            home = self._homes.get(session_id)
            if home is None:
                return None
            keys = sorted(home.keys.values(), key=lambda key: key.key.encode())
            return SessionKeys(deepcopy(home.session), keys)

    async def restore(
        self,
        session: Session,
        rows: Sequence[Row],
        calls: Sequence[CallFacts],
        keys: Sequence[Key],
    ) -> Session:
        await self._enter()
        with self._lock:
            if session.id in self._homes:
                raise SessionExistsError(session.id)
            home = self._make(session.id)
            first, *others = sorted({session.epoch, *(key.epoch for key in keys)})
            epochs = {first: home.session.epoch}
            epochs |= {epoch: self._next_epoch() for epoch in others}
            home.grow(self._place(rows), calls)
            home.keys = {key.key: key._replace(epoch=epochs[key.epoch]) for key in keys}
            home.session = replace(
                deepcopy(session),
                seq=len(rows),
                epoch=epochs[session.epoch],
                forked_from=session.forked_from if session.forked_from in self._homes else None,
            )
            return deepcopy(home.session)

    async def verify(self) -> Verification:
        await self._enter()
        with self._lock:
            homes = list(self._homes.values())
            # By their place in the store: forks share rows.
            records = {
                place: record
                for home in homes
                for (place, _), record in zip(home.rows, home.records(), strict=True)
            }
            damaged = (item for item in records.values() if isinstance(item, CorruptRecord))
            problems = (problem for home in homes for problem in _problems(home))
            return Verification(
                sessions=len(homes),
                records=len(records),
                damaged=tuple(islice(damaged, _MOST)),
                problems=tuple(islice(problems, _MOST)),
            )

    async def backup(self, path: Path, *, overwrite: bool) -> None:
        await self._enter()
        raise UnsupportedError(
            f"{self.url} is in memory and has no file to copy; use export(), whose lines "
            "import_() takes into any store"
        )


def _problems(home: Home) -> Iterator[str]:
    name = home.session.id
    if home.session.seq != len(home.rows):
        yield f"session {name!r} says seq {home.session.seq} and has {len(home.rows)} records"
    if home.calls != calls_in((row.type, row.timestamp, row.body) for _, row in home.own_rows()):
        yield f"session {name!r}: its model calls are not those of its records"
