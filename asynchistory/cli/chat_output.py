"""The events of a turn as they come: as text for people, or as JSON for programs."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import click
import msgspec

from asynchistory.cli.output import dim, escape_lines, note, one_line, print_json
from asynchistory.conversation import Conversation
from asynchistory.llm.port import ReasoningDelta, TextDelta
from asynchistory.turn import (
    DoneEvent,
    Event,
    ToolCallEvent,
    ToolResultEvent,
    UsageEvent,
)

_NAMES: dict[type, str] = {
    TextDelta: "text",
    ReasoningDelta: "reasoning",
    ToolCallEvent: "tool_call",
    ToolResultEvent: "tool_result",
    UsageEvent: "usage",
    DoneEvent: "done",
}


class Output(ABC):
    """Where the events of all turns go, and what they add up to."""

    def __init__(self) -> None:
        self._calls = 0
        self._known_calls = 0
        self._sent = 0
        self._received = 0

    def show(self, event: Event) -> None:
        """Print an event, at once."""
        if isinstance(event, UsageEvent):
            usage = event.usage
            if usage.input_tokens is not None or usage.output_tokens is not None:
                self._known_calls += 1
            self._sent += usage.input_tokens or 0
            self._received += usage.output_tokens or 0
        self._print(event)
        sys.stdout.flush()

    def tokens(self) -> str:
        """The tokens so far, in words."""
        if not self._known_calls:
            return "tokens unknown"
        return f"tokens {self._sent:,} in, {self._received:,} out"

    def begin(self, conversation: Conversation) -> None:
        """A turn begins."""
        return

    @abstractmethod
    def _print(self, event: Event) -> None: ...

    @abstractmethod
    def stop(self) -> None:
        """The turn has ended before its end; or there was none, and Ctrl-C at the prompt."""


class TextOutput(Output):
    """The answer on standard output. Other things are for people, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._text = _SafeText()
        self._line_open = False
        self._thinks = False

    def _print(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._end_reasoning()
                self._write(self._text.safe(event.text))
            case ReasoningDelta():
                if sys.stdout.isatty():
                    self._thinks = True
                    self._write(escape_lines(event.text), secondary=True)
            case ToolCallEvent():
                self._end_line()
                note(dim(f"→ {one_line(event.call.name)}"))
            case DoneEvent():
                self._end_reasoning()
                self._write(self._text.rest())
                self._end_line()

    def _write(self, text: str, *, secondary: bool = False) -> None:
        if text:
            click.echo(dim(text) if secondary else text, nl=False)
            self._line_open = not text.endswith("\n")

    def _end_reasoning(self) -> None:
        if self._thinks:
            self._thinks = False
            self._end_line()

    def _end_line(self) -> None:
        if self._line_open:
            self._line_open = False
            click.echo()

    def stop(self) -> None:
        """See :class:`Output`."""
        self._text.rest()
        self._thinks = False
        if self._line_open:
            self._end_line()
            note(dim("(stopped)"))
        else:
            note("")


class JSONOutput(Output):
    """One object an event and line; the first says which conversation it is."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def begin(self, conversation: Conversation) -> None:
        """See :class:`Output`."""
        if not self._begun:
            self._begun = True
            names = ("session_id", "provider", "model")
            self._line("session", {name: getattr(conversation, name) for name in names})

    def _print(self, event: Event) -> None:
        self._line(_NAMES[type(event)], msgspec.structs.asdict(event))

    def _line(self, name: str, value: dict[str, Any]) -> None:
        print_json({"event": name, **value})
        sys.stdout.flush()

    def stop(self) -> None:
        """See :class:`Output`."""
        note("")


class _SafeText:
    """Text in pieces, made safe for a terminal."""

    def __init__(self) -> None:
        self._held = ""

    def safe(self, piece: str) -> str:
        r"""A piece; a ``\r`` at its end waits for the ``\n`` that may follow."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return escape_lines(text.removesuffix("\r"))

    def rest(self) -> str:
        """What still waits."""
        held, self._held = self._held, ""
        return escape_lines(held)
