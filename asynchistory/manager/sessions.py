"""The manager's catalogue of sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

from asynchistory.checks import (
    check_limit,
    check_metadata_filter,
    check_order,
    check_seq,
    check_session_id,
    check_text_id,
)
from asynchistory.codec import encode_json, to_microseconds
from asynchistory.errors import (
    InvalidInputError,
    InvalidRecordError,
    SessionNotFoundError,
    StorageUnavailableError,
)
from asynchistory.manager.base import Base
from asynchistory.queries import Removed, Session, SessionPage
from asynchistory.records import JSON
from asynchistory.storage.port import Deleted, ForkPlan

#: No history is older.
_AGES = timedelta(days=365_250)
#: Sessions that one transaction deletes.
_SOME = 100


class Sessions(Base):
    """Sessions as a whole: create, find, change, delete."""

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        expires_at: datetime | None = None,
        exist_ok: bool = False,
    ) -> Session:
        """Create a session; without an id it gets one.

        Raises:
            SessionExistsError: it exists and ``exist_ok`` is false.
        """
        session_id = uuid4().hex if session_id is None else session_id
        check_session_id(session_id)
        self._check_fields(user_id, title, metadata, expires_at)
        session = await self.storage.create_session(
            session_id,
            user_id=user_id,
            title=title,
            metadata=metadata or {},
            expires_at=expires_at,
            exist_ok=exist_ok,
        )
        if not session.seq:  # what is held under this id is of one that is gone
            self._rewritten(session_id)
        return session

    async def get_session(self, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFoundError: there is none with this id.
        """
        check_session_id(session_id)
        session = await self.storage.get_session(session_id)
        if session is None:
            raise SessionNotFoundError(session_id)
        return session

    async def list_sessions(
        self,
        *,
        user_id: str | None = None,
        metadata: dict[str, JSON] | None = None,
        order: Literal["updated", "created"] = "updated",
        limit: int = 100,
        after: str | None = None,
    ) -> SessionPage:
        """Sessions, a page of them.

        Args:
            user_id: only those of this user.
            metadata: only those whose metadata has these names with these
                values: text, numbers, bools or None.
            order: ``updated``: the last written first; ``created``: the first made first.
            limit: at most this many.
            after: the page's ``next`` to go on with.
        """
        check_text_id(user_id, "a user id")
        check_limit(limit)
        check_order(order)
        check_metadata_filter(metadata)
        return await self.storage.list_sessions(
            user_id=user_id, metadata=metadata, order=order, limit=limit, after=after
        )

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        user_id: str | None = None,
        expires_at: datetime | Literal["never"] | None = None,
    ) -> Session:
        """Change a session's title, metadata (as a whole), owner or expiry; None leaves it.

        ``expires_at="never"`` removes the expiry.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        self._check_fields(user_id, title, metadata, None if expires_at == "never" else expires_at)
        return await self.storage.update_session(
            session_id, title=title, metadata=metadata, user_id=user_id, expires_at=expires_at
        )

    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with everything in it. False if there was none."""
        check_session_id(session_id)
        try:
            deleted = await self.storage.delete_session(session_id)
        finally:
            self._rewritten(session_id)
        self.cache.bury(session_id, None)
        return deleted

    async def fork(
        self,
        session_id: str,
        new_id: str | None = None,
        *,
        at_seq: int | None = None,
        epoch: int | None = None,
        user_id: str | None = None,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        expires_at: datetime | None = None,
    ) -> Session:
        """A new session that begins with the first records of another.

        Within one owner the records are shared, so that it takes the same time
        however many they are; another owner gets a copy. What is written to one
        of the two never changes the other. Statistics count each session's own
        records, those after ``fork_seq``.

        Args:
            session_id: the session to begin with.
            new_id: the new one's id; it gets one if left out.
            at_seq: the last record to share; None for all, 0 for none.
            epoch: refuse unless this is the session's epoch, to which ``at_seq`` belongs.
            user_id: the new one's owner; its parent's if None.
            title: its title; its parent's if None.
            metadata: its metadata; its parent's if None.
            expires_at: when it may be pruned.

        Raises:
            SessionNotFoundError: there is no such session.
            SessionExistsError: the new id is taken.
            InvalidQueryError: ``at_seq`` is past its newest record.
            EpochChangedError: it was rewritten since; ``epoch`` is not its epoch.
        """
        new_id = uuid4().hex if new_id is None else new_id
        for name in (session_id, new_id):
            check_session_id(name)
        check_seq(at_seq, "at_seq")
        check_seq(epoch, "epoch")
        self._check_fields(user_id, title, metadata, expires_at)
        plan = ForkPlan(session_id, new_id, at_seq, epoch, user_id, title, metadata, expires_at)
        try:
            return await self.storage.fork(plan)
        finally:
            self._rewritten(new_id)

    async def prune(self, older_than: datetime | timedelta | None = None) -> Removed:
        """Delete the sessions that are expired, and those last written before ``older_than``.

        A timedelta is counted back from now. It works in small transactions, so that
        writes go on meanwhile; cancelled, it has deleted some.
        """
        if isinstance(older_than, timedelta):
            if not timedelta(0) <= older_than <= _AGES:
                raise InvalidInputError("older_than must be an age of 0 to 1,000 years")
            older_than = datetime.now(UTC) - older_than
        if older_than is not None:
            to_microseconds(older_than)

        async def some() -> list[Deleted]:
            return await self.storage.prune(
                now=datetime.now(UTC), older_than=older_than, most=_SOME
            )

        return await self._remove(some)

    async def erase_user(self, user_id: str, *, scrub: bool = True) -> Removed:
        """Delete all sessions of a user, and what is left of them in the store's files.

        Records, keys, statistics, cache and search index go too. Backups and exports
        are not touched. Forks that belong to other users keep their records. Cancelled,
        or stopped by an error, it has deleted some; call it again.

        Args:
            user_id: the user.
            scrub: remove the residue too. SQLite writes its file anew for that: some
                seconds a gigabyte, in which other writes wait. With False, what was
                deleted stays in the write-ahead log, and ids in unused parts of the
                file, until a later call with True.

        Raises:
            BusyError: readers of another process keep the residue from being removed.
            StorageUnavailableError: all is deleted but for what Redis, the cache, may
                still hold, which could not be reached. Nothing reads it, and it goes there
                within an hour.
        """
        check_text_id(user_id, "a user id")
        removed = await self._remove(lambda: self.storage.erase_user(user_id, most=_SOME))
        told = await self.cache.settle()
        if scrub:
            await self.storage.scrub()
        if removed.sessions and not told:
            raise StorageUnavailableError(
                f"{removed.sessions} sessions are deleted, but the cache in Redis cannot be told; "
                "what it holds of them is not read any more, and goes when its time is over"
            )
        return removed

    async def _remove(self, some: Callable[[], Awaitable[list[Deleted]]]) -> Removed:
        sessions = records = 0
        while deleted := await some():
            for session_id, count in deleted:
                self._rewritten(session_id)
                self.cache.bury(session_id, None)
                sessions += 1
                records += count
        return Removed(sessions=sessions, records=records)

    def _check_fields(
        self,
        user_id: str | None,
        title: str | None,
        metadata: dict[str, JSON] | None,
        expires_at: datetime | None,
    ) -> None:
        if expires_at is not None:
            to_microseconds(expires_at)
        check_text_id(user_id, "a user id")
        encode_json([title, metadata], "a session's title and metadata")
        if not isinstance(title, (str, type(None))) or not isinstance(metadata, (dict, type(None))):
            raise InvalidRecordError("a session's title is text and its metadata an object")
