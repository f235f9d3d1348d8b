"""``asynchistory import``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.cli.storing import Importer
    from asynchistory.manager import AsyncHistoryManager


@click.command("import", short_help="Import OpenAI chat JSON or JSONL; twice adds nothing.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@common
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Import conversations from FILEs; - is standard input.

    \b
    Taken, told apart by their content:
      - OpenAI chat JSON: a list of messages, or a list of conversations
      - JSONL: one conversation a line
      - what `asynchistory export` wrote
    A conversation is a list of messages, or an object that has them under
    messages, traj, conversation, conversations or any other key; its other
    keys become metadata.

    Importing a file again adds nothing. What cannot be imported is named on
    standard error, the rest goes in, and the exit code is 1.

    With --json: one object, with sessions, messages, tool_results,
    tool_results_tied, already_there, broken and database.
    """  # noqa: D301 (click knows the paragraphs to keep by a backspace)
    from asynchistory.cli.output import escape, print_json
    from asynchistory.cli.storing import Importer
    from asynchistory.config import open_history

    settings = ctx.ensure_object(Settings)
    history = open_history(settings.db)
    importer = Importer(history)
    try:
        with importer, _progress(files) as bar:
            for file in files:
                _import_file(importer, file, bar)
    finally:
        for fault in importer.faults:
            click.echo(escape(fault), err=True)
    tally = importer.tally
    if settings.json:
        print_json({**tally, "database": history.storage.url})
    elif any(tally.values()):
        _print_summary(tally, history)
    ctx.exit(1 if importer.faults else 0)


def _import_file(importer: Importer, file: str, bar: Any) -> None:
    from asynchistory.cli.sources import read_items

    name = "standard input" if file == "-" else file
    seen: Counter[str] = Counter()
    empty = True
    try:
        with _stream(file) as stream:
            for item in read_items(stream):
                empty = False
                importer.add(name, item, seen)
                if bar is not None:
                    bar.update(item.size)
    except OSError as error:
        importer.fault(name, "", error.strerror or type(error).__name__)
        return
    if empty:
        importer.fault(name, "", "it is empty; there is nothing to import")


def _stream(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    return open(file, "rb")


def _progress(files: tuple[str, ...]) -> AbstractContextManager[Any]:
    if not sys.stderr.isatty() or "-" in files:
        return nullcontext()
    size = sum(_sizes(files))
    return click.progressbar(length=size, label="importing", file=sys.stderr)


def _sizes(files: tuple[str, ...]) -> Iterator[int]:
    for file in files:
        if os.path.isfile(file):
            yield os.path.getsize(file)


def _print_summary(tally: dict[str, int], history: AsyncHistoryManager) -> None:
    from asynchistory.cli.output import count, dim, escape, fields

    tied = f"{tally['tool_results_tied']:,} tied to their calls"
    fields(
        [
            ("imported", count(tally["sessions"], "conversation")),
            ("messages", f"{tally['messages']:,}"),
            ("tool results", f"{tally['tool_results']:,} · {tied}"),
            ("already there", f"{tally['already_there']:,}"),
            ("broken", f"{tally['broken']:,}"),
            ("database", dim(escape(history.storage.url))),
        ]
    )
