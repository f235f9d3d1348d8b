"""``asynchistory search``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import SearchHit


@click.command("search", short_help="Find messages by the words in them.")
@click.argument("words", nargs=-1, required=True, metavar="QUERY...")
@click.option("--session", metavar="ID|last", help="Only in this conversation.")
@click.option("-n", "number", type=click.IntRange(1, 10_000), default=20, show_default=True,
              help="At most so many.")  # fmt: skip
@common
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], session: str | None, number: int) -> None:
    """Find messages and tool calls in which each word of QUERY occurs, newest first.

    A word is found anywhere, inside other words too, in any case. The exit
    code is 1 if nothing is found.

    With --json: one object a line, with session_id, seq, record_type, role,
    timestamp and snippet.
    """
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    text = " ".join(words)
    found = run(history, lambda opened: _search(opened, text, session, number))
    if not found:
        click.echo("Nothing found.", err=True)
        ctx.exit(1)
    _print(found, as_json=settings.json)


async def _search(
    history: AsyncHistoryManager, text: str, session: str | None, number: int
) -> tuple[SearchHit, ...]:
    from asynchistory.cli.running import find_session

    within = None if session is None else (await find_session(history, session)).id
    return await history.search(text, session_id=within, limit=number)


def _print(found: tuple[SearchHit, ...], *, as_json: bool) -> None:
    from asynchistory.cli.output import bold, cells, dim, one_line, print_json

    speakers = [getattr(hit.record, "role", hit.record.record_type) for hit in found]
    widest = max(cells(one_line(speaker)) for speaker in speakers)
    for hit, speaker in zip(found, speakers, strict=True):
        record = hit.record
        if as_json:
            print_json(
                {
                    "session_id": record.session_id,
                    "seq": record.seq,
                    "record_type": record.record_type,
                    "role": getattr(record, "role", None),
                    "timestamp": record.timestamp,
                    "snippet": hit.snippet,
                }
            )
            continue
        where = bold(one_line(record.session_id)) + dim(f" #{record.seq:<4} ")
        shown = one_line(speaker)
        padding = " " * (widest - cells(shown))
        click.echo(where + dim(shown + padding) + "  " + _marked(_pieces(hit)))


def _marked(parts: list[tuple[str, bool]]) -> str:
    from asynchistory.cli.output import escape, marked

    return "".join(marked(escape(piece)) if match else escape(piece) for piece, match in parts)


def _pieces(hit: SearchHit) -> list[tuple[str, bool]]:
    """The snippet in pieces; True for those that match a word."""
    pieces: list[tuple[str, bool]] = []
    place = 0
    for start, end in hit.highlights:
        pieces += [(hit.snippet[place:start], False), (hit.snippet[start:end], True)]
        place = end
    return [(piece, match) for piece, match in [*pieces, (hit.snippet[place:], False)] if piece]
