"""A conversation with a model on a terminal, or through pipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import click

from asynchistory.cli.chat_output import JSONOutput, Output, TextOutput
from asynchistory.cli.hints import program, quoted
from asynchistory.cli.output import (
    clip,
    count,
    dim,
    escape,
    escape_lines,
    note,
    one_line,
    terminal_columns,
)
from asynchistory.cli.running import run
from asynchistory.conversation import Conversation
from asynchistory.errors import AsyncHistoryError, ClientCreationError, LLMError
from asynchistory.llm.factory import default_factory
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import HistoryQuery, Session
from asynchistory.records import Message, StoredRecord

#: Messages of a resumed conversation that are looked at and shown, and lines of each.
_LOOK_BACK = 20
_EARLIER_MESSAGES = 4
_EARLIER_LINES = 4


class Chat:
    """One conversation of the command line.

    Each turn is a run of an event loop of its own, so that Ctrl-C cancels the turn
    while it lasts and is an ordinary KeyboardInterrupt at the prompt.

    Args:
        history: where it is recorded.
        llm: the arguments of :meth:`LLMFactory.get`.
        session: the session to go on with; None makes a new one.
        user_id: the owner of a new one.
        prompt: the system prompt of a new one.
        db: the database as it was named, for the command that resumes.
        json: whether events are printed as JSON.
    """

    def __init__(
        self,
        history: AsyncHistoryManager,
        llm: dict[str, Any],
        *,
        session: Session | None,
        user_id: str | None,
        prompt: str | None,
        db: str | None,
        json: bool,
    ) -> None:
        self._history = history
        self._llm = llm
        self._session = session
        self._session_id = uuid4().hex if session is None else session.id
        self._user_id = user_id
        self._prompt = prompt
        self._db = db
        self._output: Output = JSONOutput() if json else TextOutput()
        self._json = json
        self._begun = False

    def prepare(self) -> None:
        """Make the LLM instance: what is wrong with its configuration comes before a question."""
        try:
            anyio.run(partial(default_factory().get, **self._llm))
        except ClientCreationError as error:
            if isinstance(error.__cause__, AsyncHistoryError):
                raise error.__cause__ from None
            raise

    def once(self, message: str) -> None:
        """Say one thing, and print the answer."""
        if sys.stderr.isatty():
            self._show_earlier()
        try:
            self._turn(message)
        except KeyboardInterrupt:
            self._output.stop()
            self._end()
            raise
        self._end()

    def go_on(self) -> int:
        """Ask the user and answer, until the user ends it; 1 if the last turn failed."""
        note(dim(f"{self._named()} · Ctrl-C stops an answer, Ctrl-D ends"))
        self._show_earlier()
        code = 0
        while True:
            try:
                said = _asked()
                if said is None:
                    break
                if said.strip():
                    code = 1
                    self._turn(said)
                    code = 0
            except KeyboardInterrupt:
                code = 0
                self._output.stop()
            except LLMError as error:
                self._output.stop()
                click.ClickException(escape(str(error))).show()
        self._end()
        return code

    def _turn(self, message: str) -> None:
        try:
            run(self._history, lambda _: self._send(message))
        except asyncio.CancelledError:  # Ctrl-C, if another cancellation met it on its way
            raise KeyboardInterrupt from None

    async def _send(self, message: str) -> None:
        conversation = Conversation(
            self._history,
            session_id=self._session_id,
            user_id=self._user_id,
            prompt=self._prompt,
            **self._llm,
        )
        async with conversation:
            self._output.begin(conversation)
            self._begun = True
            async with conversation.send(message) as events:
                async for event in events:
                    self._output.show(event)

    # -- what is said besides

    def _named(self) -> str:
        return f"{one_line(self._llm['model'])} · conversation {one_line(self._session_id)}"

    def _show_earlier(self) -> None:
        if self._session is None:
            return
        records = run(self._history, lambda opened: _last_messages(opened, self._session_id))
        for line in _earlier(records):
            note(line)

    def _end(self) -> None:
        if self._json or not (self._begun or self._session):
            return
        note(dim(f"conversation {one_line(self._session_id)} · {self._output.tokens()}"))
        note(dim(f"go on with: {escape(self._resume())}"))

    def _resume(self) -> str:
        provider, model = self._llm["provider"], self._llm["model"]
        options = {
            "--db": self._db,
            "--provider": None if provider == "openai" else provider,
            "--model": None if model == provider else model,
            "--base-url": self._llm["base_url"],
            "--temperature": self._llm["temperature"],
            "--session": self._session_id,
        }
        words = [program(), "chat"]
        for name, value in options.items():
            if value is not None:
                words += [name, quoted(str(value))]
        return " ".join(words)


async def _last_messages(history: AsyncHistoryManager, session_id: str) -> Sequence[StoredRecord]:
    query = HistoryQuery(session_id, record_types=("message",), limit=_LOOK_BACK, newest=True)
    return (await history.query_history(query, level="fresh")).records


def _earlier(records: Sequence[StoredRecord]) -> Iterator[str]:
    """The last messages in a few lines each; those of tools are left out."""
    told = [
        record
        for record in records
        if isinstance(record, Message) and record.role in ("user", "assistant") and record.text
    ]
    for message in told[-_EARLIER_MESSAGES:]:
        yield dim(f"{one_line(message.role)}:")
        lines = escape_lines(message.text.strip()).split("\n")
        for line in lines[:_EARLIER_LINES]:
            yield dim(f"  {clip(line, 2 * terminal_columns())}")
        if (rest := len(lines) - _EARLIER_LINES) > 0:
            yield dim(f"  … {count(rest, 'more line')}")


def _asked() -> str | None:
    """A line from the terminal, None at its end."""
    with suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401 - input() then edits lines and keeps those before
    try:
        if sys.stdout.isatty():
            return input("> ")
        click.echo("> ", nl=False, err=True)
        return input()
    except EOFError:
        note("")
        return None
