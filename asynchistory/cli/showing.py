"""``asynchistory show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session
    from asynchistory.records import StoredRecord


@click.command("show")
@click.argument("name", metavar="ID|last")
@click.option("-n", "number", type=click.IntRange(0, 10_000), help="Only the last so many records.")
@click.option("--full", is_flag=True, help="Do not shorten long system prompts and tool results.")
@common
@click.pass_context
def command(ctx: click.Context, name: str, number: int | None, full: bool) -> None:
    """Show a conversation as a transcript.

    ID may be the unique start of an id; last is the conversation that was
    written last. A tool's result stands under its call.

    With --json: one object, {"asynchistory": 2, "session": ..., "records": [...]}.
    """
    from asynchistory.archive import encoded, line
    from asynchistory.cli.output import escaped_json, write
    from asynchistory.cli.running import existing_history, run
    from asynchistory.cli.transcript import print_transcript

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    session, records = run(history, lambda opened: _read(opened, name, number))
    if settings.json:
        write(escaped_json(line(session, [encoded(records)])))
    else:
        print_transcript(session, records, full=full)


async def _read(
    history: AsyncHistoryManager, name: str, number: int | None
) -> tuple[Session, Sequence[StoredRecord]]:
    from asynchistory.cli.running import all_pages, find_session

    session = await find_session(history, name)
    if number is not None:
        return session, await history.last(session.id, number, level="fresh")
    pages = all_pages(history, session.id)
    return session, [record async for page in pages for record in page]
