"""``asynchistory search``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.records import StoredRecord


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
    _print(found, text, as_json=settings.json)


async def _search(
    history: AsyncHistoryManager, text: str, session: str | None, number: int
) -> tuple[StoredRecord, ...]:
    from asynchistory.cli.running import find_session

    within = None if session is None else (await find_session(history, session)).id
    return await history.search(text, session_id=within, limit=number)


def _print(found: tuple[StoredRecord, ...], text: str, *, as_json: bool) -> None:
    from asynchistory.cli.output import bold, cells, dim, one_line, print_json
    from asynchistory.storage.text import search_terms, searchable_text

    terms = search_terms(text)
    speakers = [getattr(record, "role", record.record_type) for record in found]
    widest = max(cells(one_line(speaker)) for speaker in speakers)
    for record, speaker in zip(found, speakers, strict=True):
        parts = snippet(searchable_text(record), terms)
        if as_json:
            print_json(
                {
                    "session_id": record.session_id,
                    "seq": record.seq,
                    "record_type": record.record_type,
                    "role": getattr(record, "role", None),
                    "timestamp": getattr(record, "timestamp", None),
                    "snippet": "".join(piece for piece, _ in parts),
                }
            )
            continue
        where = bold(one_line(record.session_id)) + dim(f" #{record.seq:<4} ")
        shown = one_line(speaker)
        padding = " " * (widest - cells(shown))
        click.echo(where + dim(shown + padding) + "  " + _marked(parts))


def _marked(parts: list[tuple[str, bool]]) -> str:
    from asynchistory.cli.output import escape, marked

    return "".join(marked(escape(piece)) if match else escape(piece) for piece, match in parts)


def snippet(text: str, terms: list[str]) -> list[tuple[str, bool]]:
    """The text around the first match, in pieces; True for those that match a term.

    ``terms`` are folded, and each occurs in the text.
    """
    from asynchistory.storage.snippet import excerpt
    from asynchistory.storage.text import fold

    line, highlights = excerpt(text, fold(text), terms)
    pieces: list[tuple[str, bool]] = []
    place = 0
    for start, end in highlights:
        pieces += [(line[place:start], False), (line[start:end], True)]
        place = end
    return [(piece, match) for piece, match in [*pieces, (line[place:], False)] if piece]
