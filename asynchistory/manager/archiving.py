"""The manager's care for whole stores: export, import, verify, backup."""

from __future__ import annotations

import os
from pathlib import Path

from asynchistory.checks import check_session_id, check_text_id
from asynchistory.errors import InvalidInputError
from asynchistory.manager.base import Base
from asynchistory.manager.exporting import Export
from asynchistory.manager.importing import AnyLines, import_lines
from asynchistory.queries import Imported, Verification


class Archiving(Base):
    """Sessions out and in again without loss, a check of all of them, a copy of the store."""

    def export(self, session_id: str | None = None, *, user_id: str | None = None) -> Export:
        """One session, or all in the order in which they were made, as lines of JSON.

        ::

            async with history.export() as lines:
                async for line in lines:
                    file.write(line)

        A line is a session with everything in it, and ends with a newline. Each is as of
        one moment, which for another session may be a later one; for one moment
        of the whole store see :meth:`backup`. One session at a time is held in memory.

        Args:
            session_id: this session alone.
            user_id: only sessions of this user.

        Raises:
            SessionNotFoundError: there is no such session, or it is not this user's.
            EpochChangedError: a session was rewritten each of the times that it was read.
        """
        if session_id is not None:
            check_session_id(session_id)
        check_text_id(user_id, "a user id")
        return Export(self.storage, session_id, user_id)

    async def import_(self, lines: AnyLines, *, exist_ok: bool = False) -> Imported:
        """Store the sessions in the lines of an export.

        Each is stored as a whole or not at all. Importing again adds nothing: a session
        that is there with the same contents is skipped. If it stops, by an error or
        cancelled, the sessions of earlier lines are stored, and few of later ones.

        Args:
            lines: text or bytes, from a file that is open, an :meth:`export`, or any
                other iterable, plain or asynchronous.
            exist_ok: leave a session that is there as it is, whatever it holds.

        Raises:
            ArchiveError: a line is malformed, or of a newer version; its ``line`` says which.
            SessionDiffersError: a session is there with other contents.
            StorageError: the store failed.
        """
        return await import_lines(self, lines, exist_ok)

    async def verify(self) -> Verification:
        """Check all that is stored: checksums, gaps, what belongs together, sums.

        Writes go on meanwhile; what is checked is the store as of one moment. A SQLite
        file is read as a whole.
        """
        return await self.storage.verify()

    async def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Copy the store to a file, as of one moment, while it is in use; returns its path.

        The copy is a database like any other, readable for its owner alone. It has all
        that was acknowledged before the call, and takes its name once it is on
        disk as a whole. If a cancellation is raised, there is none.

        Args:
            path: the file to make, in a folder that exists.
            overwrite: whether it may take the place of a file.

        Raises:
            BackupExistsError: there is a file, or a database in use under that name.
            StorageUnavailableError: the file cannot be written.
            UnsupportedError: the store is not in a file; export it.
        """
        target = _target(path)
        await self.storage.backup(target, overwrite=overwrite)
        return target


def _target(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInputError("a backup needs the path of a file")
    return Path(text).expanduser().absolute()
