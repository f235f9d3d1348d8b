"""The manager's catalogue of sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import uuid4

from asynchistory.checks import check_limit, check_order, check_session_id, check_text_id
from asynchistory.codec import encode_json, to_microseconds
from asynchistory.errors import InvalidRecordError, SessionNotFoundError
from asynchistory.manager.base import Base
from asynchistory.queries import Session, SessionPage
from asynchistory.records import JSON


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
        self._check_fields(user_id, title, metadata)
        if expires_at is not None:
            to_microseconds(expires_at)
        return await self.storage.create_session(
            session_id,
            user_id=user_id,
            title=title,
            metadata=metadata or {},
            expires_at=expires_at,
            exist_ok=exist_ok,
        )

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
        order: Literal["updated", "created"] = "updated",
        limit: int = 100,
        after: str | None = None,
    ) -> SessionPage:
        """Sessions, a page of them.

        Args:
            user_id: only those of this user.
            order: ``updated``: the last written first; ``created``: the first made first.
            limit: at most this many.
            after: the page's ``next`` to go on with.
        """
        check_text_id(user_id, "a user id")
        check_limit(limit)
        check_order(order)
        return await self.storage.list_sessions(
            user_id=user_id, order=order, limit=limit, after=after
        )

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        metadata: dict[str, JSON] | None = None,
        user_id: str | None = None,
    ) -> Session:
        """Change a session's title, metadata (as a whole) or owner; None leaves it.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        self._check_fields(user_id, title, metadata)
        return await self.storage.update_session(
            session_id, title=title, metadata=metadata, user_id=user_id
        )

    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with everything in it. False if there was none."""
        check_session_id(session_id)
        try:
            return await self.storage.delete_session(session_id)
        finally:
            self.cache.drop(session_id)

    def _check_fields(
        self, user_id: str | None, title: str | None, metadata: dict[str, JSON] | None
    ) -> None:
        check_text_id(user_id, "a user id")
        encode_json([title, metadata], "a session's title and metadata")
        if not isinstance(title, (str, type(None))) or not isinstance(metadata, (dict, type(None))):
            raise InvalidRecordError("a session's title is text and its metadata an object")
