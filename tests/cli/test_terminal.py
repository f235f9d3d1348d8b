"""Stored text cannot act on a terminal; columns hold with any script; colors can be off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from click.testing import CliRunner

from asynchistory import Message, SearchHit
from asynchistory.cli import output
from asynchistory.cli.app import app
from asynchistory.cli.searching import _pieces
from asynchistory.storage.snippet import excerpt
from asynchistory.storage.text import fold
from tests.cli.conftest import Invoke

Imported = Callable[..., dict[str, Any]]

EVIL = "a\x1b[2Jb\x07c\x9b31md\u202ee\u2028f\rg\x7fh"
CALL = {"id": EVIL, "type": "function", "function": {"name": EVIL, "arguments": EVIL}}
HOSTILE = [
    {"role": EVIL, "content": EVIL, "name": EVIL},
    {"role": "assistant", "content": EVIL, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": EVIL, "content": EVIL},
    {"role": "tool", "tool_call_id": "other", "content": EVIL},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": EVIL}}]},
]
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]")


@pytest.mark.parametrize(
    "args",
    [["ls"], ["show", "last"], ["show", "last", "--full"], ["search", "a"], ["stats"]],
    ids=" ".join,
)
def test_control_characters_reach_the_terminal_escaped(
    args: list[str], invoke: Invoke, imported: Imported
) -> None:
    imported([HOSTILE])

    found = invoke(*args)

    assert not ACTIVE.search(found.stdout + found.stderr)
    if args[0] != "ls":
        assert r"\x1b[2J" in found.stdout


@pytest.mark.parametrize(
    "args", [["show", "last", "--json"], ["export"], ["export", "--format", "openai"]], ids=" ".join
)
def test_json_has_no_raw_control_characters_and_says_the_same(
    args: list[str], invoke: Invoke, imported: Imported
) -> None:
    imported([HOSTILE])

    found = invoke(*args).stdout

    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", found)
    assert EVIL in texts(json.loads(found))


def texts(value: Any) -> list[Any]:
    """Whatever stands in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in texts(item)] if isinstance(value, list) else [value]


def test_an_id_in_an_error_is_escaped(invoke: Invoke, imported: Imported) -> None:
    imported([HOSTILE])

    assert not ACTIVE.search(invoke("show", EVIL, code=1).stderr)


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_colors_can_be_off(setting: dict[str, str], imported: Imported, db: object) -> None:
    imported([HOSTILE])

    found = CliRunner().invoke(app, ["--db", str(db), "ls"], color=True, env=setting)

    assert ("\x1b[" in found.stdout) is (not setting)


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("ｱ", 1), ("", 0)]
)
def test_columns_of_a_text(text: str, columns: int) -> None:
    assert output.cells(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "clipped"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 6, "日本語"), ("日本語", 5, "日本…")],
)
def test_clip(text: str, columns: int, clipped: str) -> None:
    assert output.clip(text, columns) == clipped
    assert output.cells(clipped) <= columns


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=3), "3 h ago"),
        (timedelta(days=4), "4 d ago"),
    ],
)
def test_ago(ago: timedelta, words: str) -> None:
    assert output.ago(datetime.now(UTC) - ago) == words


def test_ago_of_long_ago_is_a_date() -> None:
    assert output.ago(datetime(2020, 5, 6, 12, tzinfo=UTC)) == "2020-05-06"


@pytest.mark.parametrize(
    ("text", "terms", "shown"),
    [
        ("Hello world", ["world"], "Hello [world]"),
        ("x" * 100 + "match" + "y" * 200, ["match"], "…" + "x" * 30 + "[match]" + "y" * 85 + "…"),
        ("Die Straße", ["strasse"], "Die [Straße]"),
        ("ﬁne ﬁne", ["fine"], "[ﬁne] [ﬁne]"),
        ("a.b a+b", ["a.b"], "[a.b] a+b"),
        ("aab", ["a", "aa"], "[aa]b"),
        ("line\none\t two", ["one"], "line [one] two"),
    ],
)
def test_the_pieces_of_a_hit(text: str, terms: list[str], shown: str) -> None:
    snippet, highlights = excerpt(text, fold(text), terms)
    hit = SearchHit(record=Message.of("user", text), snippet=snippet, highlights=highlights)

    pieces = _pieces(hit)

    assert "".join(f"[{piece}]" if match else piece for piece, match in pieces) == shown


def test_a_table_of_one_column() -> None:
    @click.command()
    def command() -> None:
        output.table(["name"], [["a"], ["bcdef"]])

    assert CliRunner().invoke(command).stdout.splitlines() == ["name", "a", "bcdef"]
