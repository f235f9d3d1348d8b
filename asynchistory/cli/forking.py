"""``asynchistory fork``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session


@click.command("fork", short_help="Make a conversation that begins as another does.")
@click.argument("name", metavar="ID|last")
@click.argument("new", required=False, metavar="NEW")
@click.option(
    "--at",
    "at_seq",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="The last record that it begins with; all of them if left out.",
)
@click.option("--user", metavar="ID", help="Whose it is; its origin's if left out.")
@common
@click.pass_context
def command(
    ctx: click.Context, name: str, new: str | None, at_seq: int | None, user: str | None
) -> None:
    """Make a new conversation that begins with the records of another, and print its id.

    ID may be the unique start of an id, or last. The new one is called NEW, or
    gets an id of its own. The records are shared and not copied, unless it is
    another user's. What is said in one of the two never changes the other.

    With --json: one object, as a line of ls.
    """
    from asynchistory.cli.output import count, escape, note, one_line, print_json
    from asynchistory.cli.running import existing_history, run
    from asynchistory.errors import SessionExistsError

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    try:
        origin, fork = run(history, lambda opened: _fork(opened, name, new, at_seq, user))
    except SessionExistsError as error:
        shown = escape(error.session_id[:80])
        raise click.ClickException(
            f"there is a conversation '{shown}' already; give another id"
        ) from None
    if settings.json:
        print_json(fork)
        return
    click.echo(one_line(fork.id))
    part = f"{fork.seq:,} of {count(origin.seq, 'record')}"
    note(f"It begins with {part} of {one_line(origin.id)}.")


async def _fork(
    history: AsyncHistoryManager, name: str, new: str | None, at_seq: int | None, user: str | None
) -> tuple[Session, Session]:
    from asynchistory.cli.running import find_session

    origin = await find_session(history, name)
    fork = await history.fork(origin.id, new, at_seq=at_seq, epoch=origin.epoch, user_id=user)
    return origin, fork
