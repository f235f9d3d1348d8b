"""``asynchistory erase``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager


@click.command("erase", short_help="Delete all that a user has, and its traces in the file.")
@click.argument("user", metavar="USER")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--no-scrub",
    is_flag=True,
    help="Leave the file as it is: quicker, but parts of what was deleted may stay in it.",
)
@common
@click.pass_context
def command(ctx: click.Context, user: str, dry_run: bool, yes: bool, no_scrub: bool) -> None:
    """Delete all conversations of a USER, and what is left of them in the database file.

    The file is written anew for that, while writes of others wait: some seconds
    a gigabyte. Backups and exports are not touched, nor are conversations that
    belong to others. It asks before; without a terminal it needs --yes.

    The exit code is 1 if the user had no conversations. The file is written
    anew all the same: an earlier call may have been stopped before that.

    With --json: one object, with user_id, sessions and records (how many),
    scrubbed and dry_run.
    """
    from asynchistory.cli.output import clip, count, escape, note, print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask on; give --yes (or --dry-run)")
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    whose = f"user '{clip(escape(user), 80)}'"
    sessions, records = 0, None
    if dry_run or not yes:
        sessions = run(history, lambda opened: _count(opened, user))
    if dry_run:
        note(f"Would erase {count(sessions, 'conversation')} of {whose}; nothing was deleted.")
    else:
        if not yes:
            click.confirm(f"Erase {count(sessions, 'conversation')} of {whose}?",
                          abort=True, err=True)  # fmt: skip
        removed = run(history, lambda opened: opened.erase_user(user, scrub=not no_scrub))
        sessions, records = removed.sessions, removed.records
        note(
            f"Erased {count(sessions, 'conversation')} with {count(records, 'record')} of {whose}."
        )
    if settings.json:
        scrubbed = not (dry_run or no_scrub)
        print_json({"user_id": user, "sessions": sessions, "records": records,
                    "scrubbed": scrubbed, "dry_run": dry_run})  # fmt: skip
    ctx.exit(0 if sessions else 1)


async def _count(history: AsyncHistoryManager, user: str) -> int:
    from asynchistory.cli.running import PAGE

    number, after = 0, None
    while True:
        page = await history.list_sessions(user_id=user, order="created", limit=PAGE, after=after)
        number += len(page)
        if (after := page.next) is None:
            return number
