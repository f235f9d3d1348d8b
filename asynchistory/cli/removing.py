"""``asynchistory rm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="ID...")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@common
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete conversations with everything in them.

    ID may be the unique start of an id, or last. If one is not found, none is
    deleted. Without a terminal to ask on, --yes is needed.

    With --json: one object, with deleted (ids) and records (how many).
    """
    from asynchistory.cli.output import count, note, print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask on; give --yes (or --dry-run)")
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    sessions = run(history, lambda opened: _find(opened, names))
    records = sum(session.seq for session in sessions)
    what = f"{count(len(sessions), 'conversation')} with {count(records, 'record')}"
    if not settings.json:
        _print(sessions)
    if dry_run:
        note(f"Would delete {what}; nothing was deleted.")
    else:
        if not yes:
            click.confirm(f"Delete {what}?", abort=True, err=True)
        run(history, lambda opened: _delete(opened, sessions))
        note(f"Deleted {what}.")
    if settings.json:
        ids = [] if dry_run else [session.id for session in sessions]
        print_json({"deleted": ids, "records": 0 if dry_run else records, "dry_run": dry_run})


async def _find(history: AsyncHistoryManager, names: tuple[str, ...]) -> list[Session]:
    from asynchistory.cli.running import find_session

    found = {session.id: session for session in [await find_session(history, n) for n in names]}
    return list(found.values())


async def _delete(history: AsyncHistoryManager, sessions: list[Session]) -> None:
    for session in sessions:
        await history.delete_session(session.id)


def _print(sessions: list[Session]) -> None:
    from asynchistory.cli.output import bold, count, dim, one_line

    for session in sessions:
        title = f" · {one_line(session.title)}" if session.title else ""
        click.echo(bold(one_line(session.id)) + dim(f"  {count(session.seq, 'record')}{title}"))
