"""``asynchistory export``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import HistoryPage, Session


@click.command("export", short_help="Write conversations out, as JSONL or for OpenAI or Anthropic.")
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "openai", "anthropic"]),
    default="jsonl",
    show_default=True,
    help="What to write; see above.",
)
@common
@click.pass_context
def command(ctx: click.Context, sessions: tuple[str, ...], form: str) -> None:
    """Write conversations to standard output: all, or the SESSIONs named.

    A SESSION is an id, the unique start of one, or last. All come in the
    order in which they were made.

    \b
    jsonl      everything, one conversation a line; `asynchistory import` takes it back
    openai     a JSON list of conversations, each a list of chat messages
    anthropic  a JSON list of conversations, each with system and messages
    """  # noqa: D301 (click knows the paragraphs to keep by a backspace)
    from asynchistory.cli.output import count, note, write
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        write(b"" if form == "jsonl" else b"[]\n")
        ctx.exit(1 if sessions else 0)
    damaged = run(history, lambda opened: _export(opened, sessions, form))
    if damaged:
        note(f"{count(damaged, 'record')} damaged in the database, and not in this export")
        ctx.exit(1)


async def _export(history: AsyncHistoryManager, names: tuple[str, ...], form: str) -> int:
    from asynchistory.cli.running import all_pages, all_sessions, find_session

    # All names are looked up first, so that a wrong one leaves nothing half written.
    named = [await find_session(history, name) for name in names]
    if form == "jsonl":
        ids: list[str | None] = [session.id for session in named]
        return sum([await _export_lines(history, session_id) for session_id in ids or [None]])
    writer = _WRITERS[form]()
    writer.start()
    async for session in all_sessions(history) if not names else _each(named):
        await _export_one(writer, session, all_pages(history, session.id))
    writer.end()
    return writer.damaged


async def _export_lines(history: AsyncHistoryManager, session_id: str | None) -> int:
    """Write one session, or all, without loss; returns how many records are damaged."""
    from asynchistory.cli.output import escaped_json, write

    async with history.export(session_id) as lines:
        async for line in lines:
            write(escaped_json(line))
    return lines.damaged


async def _each(sessions: list[Session]) -> AsyncIterator[Session]:
    for session in sessions:
        yield session


async def _export_one(writer: _Writer, session: Session, pages: AsyncIterator[HistoryPage]) -> None:
    from asynchistory.errors import SessionNotFoundError

    try:
        first = await anext(pages)
    except SessionNotFoundError:
        return  # deleted since it was listed
    writer.begin(session)
    writer.page(first)
    async for page in pages:
        writer.page(page)
    writer.finish()


class _Writer:
    """Writes sessions page by page. ``damaged`` counts the records that cannot be read."""

    def __init__(self) -> None:
        from asynchistory.cli.output import write

        self.damaged = 0
        self._write = write

    def start(self) -> None: ...

    def begin(self, session: Session) -> None: ...

    def page(self, page: HistoryPage) -> None:
        from asynchistory.records import CorruptRecord

        self.damaged += sum(isinstance(record, CorruptRecord) for record in page)

    def finish(self) -> None: ...

    def end(self) -> None: ...


class _ListWriter(_Writer):
    """A JSON list, one conversation a line."""

    def start(self) -> None:
        self._between = b"\n"
        self._write(b"[")

    def begin(self, session: Session) -> None:
        self._write(self._between)
        self._between = b",\n"

    def end(self) -> None:
        self._write(b"\n]\n" if self._between != b"\n" else b"]\n")


class _OpenAIWriter(_ListWriter):
    def begin(self, session: Session) -> None:
        super().begin(session)
        self._comma = b""
        self._write(b"[")

    def page(self, page: HistoryPage) -> None:
        from asynchistory.cli.output import json_bytes
        from asynchistory.formats import conversation_to_openai

        super().page(page)
        for message in conversation_to_openai(page):
            self._write(self._comma + json_bytes(message))
            self._comma = b","

    def finish(self) -> None:
        self._write(b"]")


class _AnthropicWriter(_ListWriter):
    def begin(self, session: Session) -> None:
        super().begin(session)
        self._pages: list[HistoryPage] = []  # its ids and turns depend on the whole conversation

    def page(self, page: HistoryPage) -> None:
        super().page(page)
        self._pages.append(page)

    def finish(self) -> None:
        from asynchistory.cli.output import json_bytes
        from asynchistory.formats import conversation_to_anthropic

        records = [record for page in self._pages for record in page]
        self._write(json_bytes(conversation_to_anthropic(records)._asdict()))


_WRITERS: dict[str, type[_Writer]] = {
    "openai": _OpenAIWriter,
    "anthropic": _AnthropicWriter,
}
