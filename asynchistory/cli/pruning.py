"""``asynchistory prune``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session

_AGE = re.compile(r"([0-9]{1,9})(min|h|d|w)")
_UNITS = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_MOST = timedelta(days=365_000)


def _age(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    """The span of time that a text such as ``90d`` means."""
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not an age such as 90d, 12h, 30min or 4w.")
    number, unit = int(match[1]), _UNITS[match[2]]
    if number == 0:
        # All that is there is older than that: more likely a slip than meant.
        raise click.BadParameter("an age of 0 is that of all conversations; give at least 1min.")
    if number > _MOST // unit:
        raise click.BadParameter(f"{value!r} is longer ago than any conversation.")
    return number * unit


@click.command("prune", short_help="Delete conversations that are expired, or old.")
@click.option(
    "--older-than",
    "age",
    metavar="AGE",
    callback=_age,
    help="Also those not written to for so long: 90d, 12h, 30min, 4w.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@common
@click.pass_context
def command(ctx: click.Context, age: timedelta | None, dry_run: bool) -> None:
    """Delete the conversations that are expired.

    They are expired when the time has passed that the application gave them
    (expires_at). With --older-than those go too that nothing was written to
    for so long, expired or not. It does not ask, so that it can run by itself
    every night; writes of others go on meanwhile.

    With --json: one object, with sessions and records (how many), and dry_run.
    """
    from asynchistory.cli.output import count, note, print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        return
    records = None
    if dry_run:
        sessions = run(history, lambda opened: _show(opened, age, quiet=settings.json))
        note(f"Would delete {count(sessions, 'conversation')}; nothing was deleted.")
    else:
        removed = run(history, lambda opened: opened.prune(age))
        sessions, records = removed.sessions, removed.records
        note(f"Deleted {count(sessions, 'conversation')} with {count(records, 'record')}.")
    if settings.json:
        print_json({"sessions": sessions, "records": records, "dry_run": dry_run})


async def _show(history: AsyncHistoryManager, age: timedelta | None, *, quiet: bool) -> int:
    """Print what a prune would delete now; returns how many they are."""
    from asynchistory.cli.running import all_sessions

    now = datetime.now(UTC)
    due = 0
    async for session in all_sessions(history):
        expired = session.expires_at is not None and session.expires_at <= now
        if expired or (age is not None and session.updated_at < now - age):
            due += 1
            if not quiet:
                _print(session, expired)
    return due


def _print(session: Session, expired: bool) -> None:
    from asynchistory.cli.output import bold, count, dim, local, one_line

    why = "expired" if expired else "last written"
    moment = session.expires_at if expired else session.updated_at
    title = f" · {one_line(session.title)}" if session.title else ""
    rest = f"  {count(session.seq, 'record')} · {why} {local(moment)}{title}"
    click.echo(bold(one_line(session.id)) + dim(rest))
