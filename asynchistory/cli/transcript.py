"""A conversation as people read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from asynchistory.cli.output import (
    bold,
    clip,
    count,
    dim,
    escape,
    escape_lines,
    local,
    one_line,
    terminal_columns,
)
from asynchistory.pairing import Position, pair_tools
from asynchistory.queries import Session
from asynchistory.records import (
    AnyPart,
    Blob,
    Checkpoint,
    CorruptRecord,
    Cost,
    File,
    LLMRequest,
    LLMResponse,
    Message,
    Reasoning,
    StoredRecord,
    Text,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Uri,
    Usage,
)

#: Records that tell of one model call.
_OF_A_CALL = (LLMRequest, LLMResponse, TokenUsage, Cost)
_COLORS = {"user": "cyan", "assistant": "green", "tool": "magenta"}
_LONG_LINES = 6


def print_transcript(session: Session, records: Sequence[StoredRecord], *, full: bool) -> None:
    """Print a session's records, each tool result under its call."""
    owner = f" · user {one_line(session.user_id)}" if session.user_id else ""
    facts = f"{count(session.seq, 'record')}{owner} · updated {local(session.updated_at)}"
    click.echo(bold(one_line(session.title or session.id)) + "  " + dim(facts))
    if session.title:
        click.echo(dim(one_line(session.id)))
    if records and (first := records[0].seq) > 1:
        click.echo(dim(f"… {count(first - 1, 'earlier record')}"))
    transcript = _Transcript(records, full=full)
    for index, record in enumerate(records):
        for line in transcript.lines(index, record):
            click.echo(line)


class _Transcript:
    def __init__(self, records: Sequence[StoredRecord], *, full: bool) -> None:
        self._full = full
        self._records = records
        pairs = pair_tools(records).pairs
        self._result_of = {pair.call: pair.result for pair in pairs}
        self._answered = {pair.result for pair in pairs}
        self._call_ids = {
            part.id
            for record in records
            if isinstance(record, Message)
            for part in record.tool_calls
        }

    def lines(self, index: int, record: StoredRecord) -> Iterator[str]:
        """A record's lines; none for a message that only holds results shown above."""
        if not isinstance(record, Message):
            yield from self._event(index, record)
            return
        here = [Position(index, place) for place in range(len(record.parts))]
        if here and all(position in self._answered for position in here):
            return
        role = click.style(one_line(record.role), fg=_COLORS.get(record.role), bold=True)
        name = f" {one_line(record.name)}" if record.name else ""
        yield ""
        yield role + name + dim(f"  #{record.seq} · {local(record.timestamp, '%H:%M:%S')}")
        for position in here:
            if position not in self._answered:
                yield from self._part(record.role, record.parts[position.part], position)

    def _part(self, role: str, part: AnyPart, position: Position) -> Iterator[str]:
        match part:
            case Text():
                yield from self._text(part.text, shorten=role in ("system", "developer"))
            case Reasoning():
                for line in self._text(part.text, shorten=True):
                    yield dim(line)
            case ToolCallPart():
                yield from self._call(part, position)
            case ToolResultPart():
                yield from self._result(part, f"result of {one_line(part.id) or 'a call'} ")
            case _:
                yield "  " + dim(f"[{_attachment(part)}]")

    def _call(self, part: ToolCallPart, position: Position) -> Iterator[str]:
        name = click.style(one_line(part.name), fg="yellow")
        yield f"  → {name} {self._short(_json(part.arguments))}"
        found = self._result_of.get(position)
        if found is None:
            yield dim("    ← no result yet")
            return
        record = self._records[found.record]
        assert isinstance(record, Message)
        result = record.parts[found.part]
        assert isinstance(result, ToolResultPart)
        yield from self._result(result, dim(f"#{record.seq} "), margin="    ")

    def _result(self, part: ToolResultPart, label: str, margin: str = "  ") -> Iterator[str]:
        text = self._short(_json(part.result))
        if part.is_error:
            label += click.style("error ", fg="red")
        yield f"{margin}← {label}{text}"

    def _event(self, index: int, record: StoredRecord) -> Iterator[str]:
        if isinstance(record, CorruptRecord):
            yield click.style(f"  #{record.seq} damaged ({one_line(record.reason)})", fg="red")
        elif isinstance(record, ToolCall):
            yield from self._run(record)
        elif not self._goes_on(index):
            records: list[StoredRecord] = [record]
            while self._goes_on(index := index + 1):
                records.append(self._records[index])
            counted = any(isinstance(one, TokenUsage) for one in records)
            facts = " · ".join(
                _EVENTS[type(one)](
                    # What the response says of its tokens, the other record says again.
                    replace(one, usage=None) if counted and isinstance(one, LLMResponse) else one
                )
                for one in records
            )
            seqs = f"#{record.seq}" + (f"–{records[-1].seq}" if len(records) > 1 else "")
            yield dim(f"  {seqs} {self._short(facts)}")

    def _goes_on(self, index: int) -> bool:
        """Whether this record tells more of the model call that the one before it tells of."""
        if not 0 < index < len(self._records):
            return False
        ids = [
            record.request_id if isinstance(record, _OF_A_CALL) else None
            for record in self._records[index - 1 : index + 1]
        ]
        return ids[0] is not None and ids[0] == ids[1]

    def _run(self, record: ToolCall) -> Iterator[str]:
        yield dim(f"  #{record.seq} ran {one_line(record.name)}{_seconds(record.duration)}")
        known = record.call_id is not None and record.call_id in self._call_ids
        values = [("✗", record.error)]
        if not known:  # else they stand in the message that called it, and under it
            values = [("→", record.input), ("←", record.output), *values]
        for arrow, value in values:
            if value is not None:
                yield dim(f"    {arrow} {self._short(_json(value))}")

    def _text(self, text: str, *, shorten: bool) -> Iterator[str]:
        lines = escape_lines(text).split("\n")
        shown = lines[:_LONG_LINES] if shorten and not self._full else lines
        for line in shown:
            yield ("  " + line).rstrip()
        if rest := len(lines) - len(shown):
            yield dim(f"  … {count(rest, 'more line')} (--full shows all)")

    def _short(self, text: str) -> str:
        if self._full:
            return escape(text)
        room = 2 * terminal_columns()
        # Clipped before it is escaped too: a result may be many megabytes.
        return clip(one_line(text[: 2 * room]), room)


def _json(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _attachment(part: AnyPart) -> str:
    match part:
        case Blob():
            return f"{one_line(part.mime_type or 'data')}, {count(len(part.data), 'byte')}"
        case File():
            return f"file {one_line(part.file_id)}"
        case Uri():
            return one_line(part.uri[:500])
        case _:
            return type(part).__name__.lower()


def _seconds(value: float | None) -> str:
    return "" if value is None else f" · {value:.2f} s"


def _request(record: LLMRequest) -> str:
    return f"asks {record.provider}/{record.model}"


def _response(record: LLMResponse) -> str:
    finish = f" · {record.finish_reason}" if record.finish_reason else ""
    usage = f" · {_tokens(record.usage)}" if record.usage else ""
    return f"{record.model} answered{finish}{_seconds(record.response_time)}{usage}"


def _tokens(usage: Usage | TokenUsage) -> str:
    counts = [
        (usage.input_tokens, "in"),
        (usage.cached_tokens, "of them cached"),
        (usage.output_tokens, "out"),
        (usage.reasoning_tokens, "of them reasoning"),
        (usage.total_tokens, "in all"),
    ]
    known = [
        f"{number:,} {what}"
        for number, what in counts
        if number is not None and (number or not what.startswith("of them"))
    ]
    return "tokens " + (", ".join(known) or "unknown")


def _cost(record: Cost) -> str:
    total = "unknown" if record.total_cost is None else f"{record.total_cost.normalize():f}"
    return f"cost {total} {record.currency}"


def _checkpoint(record: Checkpoint) -> str:
    return f"checkpoint {record.name}"


_EVENTS: dict[type, Callable[[Any], str]] = {
    LLMRequest: _request,
    LLMResponse: _response,
    TokenUsage: _tokens,
    Cost: _cost,
    Checkpoint: _checkpoint,
}
