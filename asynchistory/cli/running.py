"""From a command to the event loop, and to the sessions that its arguments name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import anyio
import click

from asynchistory.cli.options import Settings
from asynchistory.cli.output import escape, note
from asynchistory.config import open_history
from asynchistory.errors import InvalidSessionIdError, SessionNotFoundError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import HistoryPage, HistoryQuery, Session

T = TypeVar("T")

#: Sessions and records are read in pages of this many.
PAGE = 1_000


def run(
    history: AsyncHistoryManager, work: Callable[[AsyncHistoryManager], Coroutine[Any, Any, T]]
) -> T:
    """Run a command's work over an open history, in an event loop of its own."""

    async def opened() -> T:
        async with history:
            return await work(history)

    return anyio.run(opened)


def existing_history(settings: Settings) -> AsyncHistoryManager | None:
    """The history, not yet opened; None, and a friendly word, if there is no database file.

    A command that only reads must not leave an empty database behind, least of
    all where a path was mistyped.
    """
    history = open_history(settings.db)
    path = getattr(history.storage, "path", None)
    try:
        if path is not None:
            path.stat()
    except FileNotFoundError:
        note(f"No conversations yet: there is no database at {escape(str(path))}.")
        note("`asynchistory import FILE` or `asynchistory demo` makes one.")
        return None
    except OSError:
        pass  # opening it gives the better message
    return history


async def all_sessions(history: AsyncHistoryManager) -> AsyncIterator[Session]:
    """Every session, the first made first."""
    after: str | None = None
    while True:
        page = await history.list_sessions(order="created", limit=PAGE, after=after)
        for session in page:
            yield session
        if (after := page.next) is None:
            return


async def all_pages(history: AsyncHistoryManager, session_id: str) -> AsyncIterator[HistoryPage]:
    """All records of a session, page by page."""
    after: str | None = None
    while True:
        query = HistoryQuery(session_id, limit=PAGE, after=after)
        # Read once and in full: nothing that a cache could help with, or should be filled with.
        page = await history.query_history(query, level="fresh")
        yield page
        if (after := page.next) is None:
            return


async def find_session(history: AsyncHistoryManager, name: str) -> Session:
    """The session that a command's argument means: an id, the unique start of one, or ``last``.

    Raises:
        ClickException: there is none, or several.
    """
    try:
        return await history.get_session(name)
    except (SessionNotFoundError, InvalidSessionIdError):
        pass
    if name == "last":
        page = await history.list_sessions(limit=1)
        found = list(page)
    else:
        found = [
            session
            async for session in all_sessions(history)
            if name and session.id.startswith(name)
        ]
    if len(found) == 1:
        return found[0]
    shown = escape(name[:80])
    if not found:
        raise click.ClickException(
            f"no conversation '{shown}'; `asynchistory ls` lists what there is"
        )
    raise click.ClickException(
        f"'{shown}' is the start of {len(found)} conversation ids; give more of it"
    )
