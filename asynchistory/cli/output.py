"""What reaches the terminal: escaped, aligned, dimmed where it is secondary."""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

# Stored text must not move the cursor, set a title, answer a query or reorder what is read:
# C0 and C1 controls, line and paragraph separators, bidirectional overrides.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"
_ONE_LINE = re.compile(f"[{_CONTROL}]")
_LINES = re.compile(f"(?![\n\t])[{_CONTROL}]")
_SPACES = re.compile(r"\s+")
# JSON leaves these as they are, and a terminal may act on them.
_RAW_IN_JSON = re.compile(rb"\x7f|\xc2([\x80-\x9f])")
WIDEST = 100


def lenient_streams() -> None:
    """Print what the terminal's encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def note(message: str) -> None:
    """A message for people, on standard error."""
    click.echo(message, err=True)


def dim(text: object) -> str:
    """Secondary text."""
    return click.style(str(text), dim=True)


def bold(text: object) -> str:
    """Text that leads the eye."""
    return click.style(str(text), bold=True)


def marked(text: str) -> str:
    """(Escaped) text that was searched for: in color, or between marks where there is none."""
    if click.get_current_context().color is not False and sys.stdout.isatty():
        return click.style(text, fg="yellow", bold=True)
    return f"«{text}»"


def escape(text: str) -> str:
    """Text that is safe on a terminal, in one line."""
    return _ONE_LINE.sub(_escaped, text)


def escape_lines(text: str) -> str:
    """Text that is safe on a terminal; its lines and tabs stay."""
    return _LINES.sub(_escaped, text.replace("\r\n", "\n"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    named = {9: "\\t", 10: "\\n", 13: "\\r"}
    return named.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def one_line(text: str) -> str:
    """The text with each run of blanks as one space, escaped."""
    return escape(_SPACES.sub(" ", text).strip())


def cells(text: str) -> int:
    """How many columns of a terminal an (escaped, unstyled) text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def clip(text: str, columns: int) -> str:
    """The text, cut to so many columns."""
    if cells(text) <= columns:
        return text
    end = min(len(text), columns)
    while end > 0 and cells(text[:end]) > columns - 1:
        end -= 1
    return text[:end].rstrip() + "…"


def terminal_columns() -> int:
    """The width to fill: that of the terminal, within reason."""
    return max(60, shutil.get_terminal_size((WIDEST, 24)).columns)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()
) -> None:
    """Print aligned columns under dim heads. Cells are escaped by the caller; the first is bold.

    Args:
        heads: the columns' names.
        rows: as many cells each.
        right: the columns that are numbers.
    """
    rows, right = [list(row) for row in rows], set(right)
    widths = [max(cells(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    click.echo(dim(_line(heads, widths, right)))
    for row in rows:
        first, rest = (
            _line(row[:1], widths, right),
            _line(row[1:], widths[1:], {n - 1 for n in right}),
        )
        click.echo(bold(first.ljust(widths[0])) + "  " + rest if len(row) > 1 else bold(first))


def _line(row: Sequence[str], widths: Sequence[int], right: set[int]) -> str:
    padded = [
        " " * (width - cells(cell)) + cell
        if column in right
        else cell + " " * (width - cells(cell))
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    return "  ".join(padded).rstrip()


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, the names dim and aligned."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{dim(name.ljust(width))}  {value}")


def figures(rows: Iterable[tuple[str, int, str]]) -> None:
    """Print names, numbers that end in one column, and a dim word on each."""
    shown = [(name, f"{number:,}", detail) for name, number, detail in rows]
    names, numbers = (max(len(row[column]) for row in shown) for column in (0, 1))
    for name, number, detail in shown:
        line = f"{dim(name.ljust(names))}  {number.rjust(numbers)}"
        click.echo(line + (f"  {dim(detail)}" if detail else ""))


def json_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8, in which no control character stands raw."""
    import msgspec  # late, since help needs none of it

    return escaped_json(msgspec.json.encode(value))


def escaped_json(data: bytes) -> bytes:
    """JSON in UTF-8 that says the same, with all control characters escaped."""
    return _RAW_IN_JSON.sub(lambda match: b"\\u00%02x" % (match[1] or match[0])[0], data)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    write(json_bytes(value) + b"\n")


def write(data: bytes) -> None:
    """Write to standard output, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.buffer.write(data)


def count(number: int, noun: str) -> str:
    """``1 message``, ``5,308 messages``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def ago(moment: datetime) -> str:
    """How long ago, in one or two words; the date if that is a month or more."""
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            days = seconds // 86_400
            return (
                f"{moment.astimezone():%Y-%m-%d}" if days > 30 else f"{seconds // size} {unit} ago"
            )
    return "just now"


def local(moment: datetime | None, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in the reader's own zone."""
    return "" if moment is None else moment.astimezone().strftime(pattern)
