"""``asynchistory verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.queries import Verification


@click.command("verify", short_help="Check everything in the database against itself.")
@common
@click.pass_context
def command(ctx: click.Context) -> None:
    """Check the whole database: the file, each record, and what belongs together.

    It can be in use meanwhile. What is wrong is named, never quoted; the exit
    code is then 1.

    With --json: one object, with ok, sessions, records, damaged (session_id,
    seq and reason of each) and problems.
    """
    from asynchistory.cli.output import print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    found = run(history, lambda opened: opened.verify())
    if settings.json:
        print_json(
            {
                "ok": found.ok,
                "sessions": found.sessions,
                "records": found.records,
                "damaged": found.damaged,
                "problems": found.problems,
            }
        )
    else:
        _print(found)
    ctx.exit(0 if found.ok else 1)


def _print(found: Verification) -> None:
    from asynchistory.cli.output import count, dim, escape, fields

    for record in found.damaged:
        reason = dim(f"({escape(record.reason)})")
        click.echo(f"damaged: record {record.seq} of {escape(record.session_id)} {reason}")
    for problem in found.problems:
        click.echo(f"problem: {escape(problem)}")
    faults = len(found.damaged) + len(found.problems)
    fields(
        [
            ("checked", count(found.sessions, "conversation")),
            ("records", f"{found.records:,}"),
            ("found", "nothing wrong" if found.ok else count(faults, "fault")),
        ]
    )
