"""ls, show, search, stats, export and rm over a small database."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from asynchistory import (
    Checkpoint,
    Cost,
    LLMRequest,
    LLMResponse,
    Message,
    Text,
    TokenUsage,
    ToolCall,
    open_history,
)
from asynchistory.cli.app import COMMANDS, app
from tests.cli.conftest import Invoke
from tests.cli.samples import conversation, with_tools

Imported = Callable[..., dict[str, Any]]

CALL = {"request_id": "r1", "provider": "openai", "model": "gpt-4o"}
RECORDS = (
    Message.of("user", "Where is my order 42?"),
    LLMRequest(**CALL),
    Message.of("assistant", [Text(text="On its way.")]),
    LLMResponse(**CALL, finish_reason="stop", response_time=0.5),
    TokenUsage(**CALL, input_tokens=1_200, output_tokens=30, total_tokens=1_230),
    Cost(**CALL, total_cost=Decimal("0.0033")),
    ToolCall(name="track", input={"order": 42}, output="shipped", duration=0.25),
    Checkpoint(name="half way", state={"step": 1}),
)


@pytest.fixture
def filled(db: Path) -> None:
    async def fill() -> None:
        async with open_history(db) as history:
            await history.create_session("chat-mia", user_id="mia", title="Order 42")
            await history.append("chat-mia", *RECORDS)
            await history.create_session("chat-ravi", user_id="ravi")
            await history.append("chat-ravi", Message.of("user", "I write C++ and Straße"))

    anyio.run(fill)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- ls


@pytest.mark.usefixtures("filled")
def test_ls_shows_the_last_written_first(invoke: Invoke) -> None:
    heads, first, second = invoke("ls").stdout.splitlines()

    assert heads.split() == ["conversation", "updated", "records", "user", "title"]
    assert first.split()[0] == "chat-ravi"
    assert "I write C++" in first  # without a title, what was said first
    assert second.split()[0] == "chat-mia"
    assert "Order 42" in second


@pytest.mark.usefixtures("filled")
def test_ls_of_a_user_and_of_a_number(invoke: Invoke) -> None:
    assert [session["id"] for session in lines(invoke("ls", "--user", "mia", "--json").stdout)] == [
        "chat-mia"
    ]
    limited = invoke("ls", "-n", 1)
    assert len(limited.stdout.splitlines()) == 2
    assert "ls -n 10" in limited.stderr
    assert "No conversations" in invoke("ls", "--user", "nobody").stderr


def test_the_columns_of_ls_are_aligned(invoke: Invoke, imported: Imported) -> None:
    imported([conversation("日本語のタイトル"), conversation("latin"), with_tools()])

    table = invoke("ls").stdout.splitlines()

    column = table[0].index("title")
    assert {line[column - 2 : column] for line in table} == {"  "}
    assert all(line[column] != " " for line in table)


# -- show


@pytest.mark.usefixtures("filled")
def test_show_is_a_transcript(invoke: Invoke) -> None:
    shown = invoke("show", "chat-mia").stdout

    for expected in (
        "Order 42",
        "Where is my order 42?",
        "asks openai/gpt-4o",
        "#4–6 gpt-4o answered · stop · 0.50 s · tokens 1,200 in, 30 out, 1,230 in all · "
        "cost 0.0033 USD",
        "ran track · 0.25 s",
        "checkpoint half way",
    ):
        assert expected in shown


def test_a_result_stands_under_its_own_call(invoke: Invoke, imported: Imported) -> None:
    imported([with_tools("found")])

    shown = [line.strip() for line in invoke("show", "last").stdout.splitlines()]

    for place, number in (("first", "one"), ("second", "two")):
        call = shown.index(f'→ look_up {{"place":"{place}"}}')
        assert shown[call + 1].endswith(f"found {number}")


def test_long_results_and_prompts_are_shortened_unless_asked_for(
    invoke: Invoke, imported: Imported
) -> None:
    prompt = {"role": "system", "content": "\n".join(f"rule {number}" for number in range(50))}
    imported([[prompt, *with_tools("x" * 5_000 + " END")]])

    assert "rule 49" not in (shown := invoke("show", "last").stdout)
    assert "END" not in shown
    assert "more lines (--full shows all)" in shown
    assert "rule 49" in (whole := invoke("show", "last", "--full").stdout)
    assert "END two" in whole


def test_only_the_last_records(invoke: Invoke, imported: Imported) -> None:
    imported([conversation("one", "two", "three")])

    shown = invoke("show", "last", "-n", 1).stdout

    assert "… 2 earlier records" in shown
    assert "three" in shown
    assert "two" not in shown
    document = json.loads(invoke("show", "last", "-n", 2, "--json").stdout)
    assert [record["seq"] for record in document["records"]] == [2, 3]


@pytest.mark.usefixtures("filled")
def test_the_start_of_an_id_is_enough_if_it_is_unique(invoke: Invoke) -> None:
    assert "Order 42" in invoke("show", "chat-m").stdout
    assert "start of 2 conversation ids" in invoke("show", "chat-", code=1).stderr
    assert "no conversation 'nobody'" in invoke("show", "nobody", code=1).stderr
    assert "no conversation" in invoke("show", "", code=1).stderr
    assert invoke("show", "last").stdout.startswith("chat-ravi")


# -- search


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("query", "marked"),
    [
        (["ORDER"], "my «order» 42?"),
        (["order", "42"], "my «order» «42»?"),
        (["c++"], "write «C++» and"),
        (["strasse"], "and «Straße»"),
        (["rder 4"], "o«rder» «4»2"),
    ],
)
def test_search_marks_what_it_found(query: list[str], marked: str, invoke: Invoke) -> None:
    assert marked in invoke("search", *query).stdout


@pytest.mark.usefixtures("filled")
def test_search_within_a_conversation(invoke: Invoke) -> None:
    found = lines(invoke("search", "42", "--session", "chat-m", "--json").stdout)

    assert {(each["session_id"], each["seq"], each["role"]) for each in found} == {
        ("chat-mia", 1, "user"),
        ("chat-mia", 7, None),
    }
    assert "Where is my order 42?" in [each["snippet"] for each in found]
    result = invoke("search", "42", "--session", "chat-r", code=1)
    assert (result.stdout, result.stderr) == ("", "Nothing found.\n")


@pytest.mark.usefixtures("filled")
def test_an_empty_search_is_an_error(invoke: Invoke) -> None:
    assert "at least one word" in invoke("search", " ", code=1).stderr


# -- stats


@pytest.mark.usefixtures("filled")
def test_stats_count_each_call_once(invoke: Invoke) -> None:
    found = json.loads(invoke("stats", "--json", "--by", "model").stdout)

    assert (found["sessions"], found["records"], found["messages"]) == (2, 9, 3)
    assert found["tokens"]["total_tokens"] == 1_230
    assert found["tokens"]["groups"]["gpt-4o"]["input_tokens"] == 1_200
    assert Decimal(found["costs"]["currencies"]["USD"]["total_cost"]) == Decimal("0.0033")
    assert (found["llm"]["requests"], found["llm"]["responses"]) == (1, 1)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("by", ["model", "provider", "day", "session", "user"])
def test_stats_in_words(by: str, invoke: Invoke) -> None:
    text = invoke("stats", "--by", by).stdout

    assert "1,200 in · 30 out" in text
    assert "0.0033 USD" in text
    assert text.splitlines()[-2].split()[0] == by


@pytest.mark.usefixtures("filled")
def test_stats_of_a_conversation(invoke: Invoke) -> None:
    found = json.loads(invoke("stats", "--session", "chat-r", "--json").stdout)

    assert (found["session_id"], found["records"], found["roles"]) == ("chat-ravi", 1, {"user": 1})
    assert "no model calls" in invoke("stats", "--session", "chat-r", "--by", "day").stderr.lower()


# -- export


def test_export_for_anthropic(invoke: Invoke, imported: Imported) -> None:
    imported([[{"role": "system", "content": "Be kind."}, *with_tools()]])

    [found] = json.loads(invoke("export", "--format", "anthropic").stdout)

    assert found["system"] == "Be kind."
    blocks = [
        block
        for message in found["messages"]
        for block in message["content"]
        if isinstance(block, dict)
    ]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(set(calls)) == 2
    assert calls == results


def test_export_of_some(invoke: Invoke, imported: Imported) -> None:
    imported([conversation("one"), conversation("two")])
    second, first = (session["id"] for session in lines(invoke("ls", "--json").stdout))
    texts = {first: "one", second: "two"}

    found = json.loads(invoke("export", "--format", "openai", second, first[:12]).stdout)

    assert [each[0]["content"] for each in found] == [texts[second], texts[first]]
    result = invoke("export", first, "nobody", code=1)
    assert result.stdout == ""


def test_a_long_conversation_is_exported_page_by_page(
    invoke: Invoke, imported: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asynchistory.cli import running

    monkeypatch.setattr(running, "PAGE", 7)
    values = [conversation(*(f"{name} {number}" for number in range(30))) for name in range(10)]
    imported(values)

    assert json.loads(invoke("export", "--format", "openai").stdout) == values
    assert [len(line["records"]) for line in lines(invoke("export").stdout)] == [30] * 10


# -- rm


@pytest.mark.usefixtures("filled")
def test_rm_deletes_all_or_none(invoke: Invoke) -> None:
    assert "no conversation" in invoke("rm", "chat-m", "nobody", "--yes", code=1).stderr
    assert len(lines(invoke("ls", "--json").stdout)) == 2
    assert "Would delete 2" in invoke("rm", "chat-m", "chat-r", "--dry-run").stderr
    assert len(lines(invoke("ls", "--json").stdout)) == 2

    deleted = json.loads(invoke("rm", "chat-m", "chat-mia", "--yes", "--json").stdout)

    assert deleted == {"deleted": ["chat-mia"], "records": 8, "dry_run": False}
    assert [session["id"] for session in lines(invoke("ls", "--json").stdout)] == ["chat-ravi"]


@pytest.mark.usefixtures("filled")
def test_rm_needs_yes_without_a_terminal(invoke: Invoke) -> None:
    assert "--yes" in invoke("rm", "last", code=2).stderr
    assert len(lines(invoke("ls", "--json").stdout)) == 2


# -- all of them


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["ls"], 0),
        (["stats"], 0),
        (["export"], 0),
        (["export", "--format", "openai"], 0),
        (["search", "x"], 1),
        (["show", "last"], 1),
        (["rm", "x", "--yes"], 1),
        (["stats", "--session", "x"], 1),
        (["export", "x"], 1),
    ],
)
def test_without_a_database_none_is_made(
    args: list[str], code: int, invoke: Invoke, db: Path
) -> None:
    result = invoke(*args, code=code)

    assert "No conversations yet" in result.stderr
    assert not db.exists()


def test_json_and_db_are_taken_before_and_after_the_name(
    invoke: Invoke, imported: Imported, db: Path
) -> None:
    imported([conversation("Hi")])

    for args in (
        ["--json", "--db", str(db), "ls"],
        ["--db", str(db), "ls", "--json"],
        ["ls", "--json", "--db", f"sqlite:///{db}"],
    ):
        result = CliRunner().invoke(app, args)
        assert json.loads(result.stdout)["seq"] == 1


def test_the_environment_names_the_database(
    imported: Imported, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported([conversation("Hi")])
    monkeypatch.setenv("ASYNCHISTORY_URL", f"sqlite:///{db}")

    assert json.loads(CliRunner().invoke(app, ["ls", "--json"]).stdout)["seq"] == 1


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_every_command_has_help(command: str | None) -> None:
    result = CliRunner().invoke(app, [*([command] if command else []), "--help"])

    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_an_unknown_command_is_wrong_usage(invoke: Invoke) -> None:
    assert "No such command" in invoke("frobnicate", code=2).stderr


def test_a_foreign_file_is_one_line_of_error(invoke: Invoke, db: Path) -> None:
    db.write_text("x" * 5_000, encoding="utf-8")

    result = invoke("ls", code=1)

    assert "is not a database" in result.stderr
    assert len(result.stderr.splitlines()) == 1
