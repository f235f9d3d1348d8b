"""``asynchistory ls``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session, SessionPage

#: How many messages to look through for one of the user's, to show as a title.
PREVIEW_MESSAGES = 5


@click.command("ls", short_help="List conversations, the last written first.")
@click.option("-n", "number", type=click.IntRange(1, 10_000), default=20, show_default=True,
              help="At most so many.")  # fmt: skip
@click.option("--user", metavar="ID", help="Only this user's.")
@common
@click.pass_context
def command(ctx: click.Context, number: int, user: str | None) -> None:
    """List conversations, the last written first.

    With --json: one object a line, with id, user_id, title, metadata,
    created_at, updated_at and seq (the number of its records).
    """
    from asynchistory.cli.output import note, print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        return
    page, titles = run(history, lambda opened: _read(opened, number, user, settings.json))
    if settings.json:
        for session in page:
            print_json(session)
        return
    if not page.sessions:
        note("No conversations yet." if user is None else "No conversations of this user.")
        return
    _print(page, titles)
    if page.next is not None:
        note(f"The last {number}; `asynchistory ls -n {number * 10}` shows more.")


async def _read(
    history: AsyncHistoryManager, number: int, user: str | None, plain: bool
) -> tuple[SessionPage, list[str]]:
    page = await history.list_sessions(user_id=user, limit=number)
    return page, [] if plain else [await _title(history, session) for session in page]


async def _title(history: AsyncHistoryManager, session: Session) -> str:
    """The session's title, or else what its user said first."""
    from asynchistory.errors import ConflictError, SessionNotFoundError
    from asynchistory.queries import HistoryQuery
    from asynchistory.records import Message

    if session.title:
        return session.title
    query = HistoryQuery(session.id, record_types=("message",), limit=PREVIEW_MESSAGES)
    try:
        page = await history.query_history(query, level="fresh")
    except (SessionNotFoundError, ConflictError):
        return ""  # deleted since it was listed
    texts = [item.text for item in page if isinstance(item, Message) and item.role == "user"]
    return next(filter(None, texts), "")


def _print(page: SessionPage, titles: list[str]) -> None:
    from asynchistory.cli.output import ago, clip, one_line, table, terminal_columns

    rows = [
        [one_line(session.id), ago(session.updated_at), f"{session.seq:,}",
         one_line(session.user_id or "")]
        for session in page
    ]  # fmt: skip
    heads = ["conversation", "updated", "records", "user"]
    if not any(row[3] for row in rows):
        heads, rows = heads[:3], [row[:3] for row in rows]
    used = sum(max(len(row[column]) for row in [heads, *rows]) + 2 for column in range(len(heads)))
    room = max(20, terminal_columns() - used)
    rows = [
        [*row, clip(one_line(title[:1_000]), room)] for row, title in zip(rows, titles, strict=True)
    ]
    table([*heads, "title"], rows, right=[2])
