"""The part of the port that archives need: whole sessions in and out, a check, a copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asynchistory.queries import Session, Verification

if TYPE_CHECKING:
    from asynchistory.codec import Row
    from asynchistory.storage.calls import CallFacts
    from asynchistory.storage.port import Key


class SessionKeys(NamedTuple):
    """A session and its idempotency keys, as of one moment."""

    session: Session
    keys: list[Key]


class Archives(ABC):
    """What export, import, verify and backup ask of a store."""

    @abstractmethod
    async def idempotency_keys(self, session_id: str) -> SessionKeys | None:
        """The session and its idempotency keys as of one moment, None if there is none.

        The keys come in the order of their names.
        """

    @abstractmethod
    async def restore(
        self,
        session: Session,
        rows: Sequence[Row],
        calls: Sequence[CallFacts],
        keys: Sequence[Key],
    ) -> Session:
        """Make a session again with all that it had, and return it. All of it or nothing.

        ``rows`` are its records from 1 on, ``calls`` the facts of those after
        ``fork_seq``. Its times are kept; its epoch is a new one, and so are those
        of its keys, in the same order. It rests on no other session;
        ``forked_from`` is kept if there is such a session.

        Raises:
            SessionExistsError: there is a session with this id. Nothing was written.
            BusyError: another process held the write lock past the deadline.
        """

    @abstractmethod
    async def verify(self) -> Verification:
        """Check all that is stored against itself, as of one moment, while writes go on."""

    @abstractmethod
    async def backup(self, path: Path, *, overwrite: bool) -> None:
        """Write a copy of the whole store, as of one moment, to a file, while writes go on.

        It has all that was acknowledged before the call. Completes or is
        cancelled, never both.

        Raises:
            BackupExistsError: there is a file, and ``overwrite`` is false; or there is
                a database that is in use.
            StorageUnavailableError: the file cannot be written.
            UnsupportedError: this kind of store cannot be copied to a file.
        """
