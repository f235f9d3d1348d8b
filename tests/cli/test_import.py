"""What import takes, what it refuses, and that a repeat adds nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from asynchistory.cli import storing
from tests.cli.conftest import Invoke
from tests.cli.samples import conversation, with_tools

Imported = Callable[..., dict[str, Any]]

HI = conversation("Hi", "Hello")
SECRET = "do-not-tell"


def exported(invoke: Invoke, *names: str) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]]
    found = json.loads(invoke("export", "--format", "openai", *names).stdout)
    return found


def sessions(invoke: Invoke) -> list[dict[str, Any]]:
    return [json.loads(line) for line in invoke("ls", "-n", 1000, "--json").stdout.splitlines()]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(HI, id="a list of messages"),
        pytest.param([HI], id="a list of conversations"),
        pytest.param({"messages": HI}, id="an object"),
        pytest.param([{"traj": HI, "reward": 1.0}], id="traj"),
        pytest.param([{"conversation": HI}], id="conversation"),
        pytest.param([{"conversations": HI}], id="conversations"),
        pytest.param([{"tags": ["a"], "dialog": HI}], id="another key"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_shape_is_taken(
    value: Any, lines: bool, indent: int | None, invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "some.txt"  # the name says nothing
    if lines:
        members = value if isinstance(value, list) and value != HI else [value]
        text = "\n".join(json.dumps(member) for member in [*members, conversation("second")])
    else:
        text = json.dumps(value, indent=indent)
    file.write_text(text, encoding="utf-8")

    invoke("import", file)

    assert exported(invoke) == ([HI, conversation("second")] if lines else [HI])


def test_the_summary_counts_results_tied_to_their_calls(invoke: Invoke, imported: Imported) -> None:
    orphan = {"role": "tool", "tool_call_id": "nobody", "content": "?"}

    figures = imported([with_tools(), [*with_tools("other"), orphan]])

    counts = {name: figures[name] for name in figures if name != "database"}
    assert counts == {
        "sessions": 2,
        "messages": 13,
        "tool_results": 5,
        "tool_results_tied": 4,
        "already_there": 0,
        "broken": 0,
    }


def test_what_stands_beside_the_messages_becomes_metadata(
    invoke: Invoke, imported: Imported
) -> None:
    imported([{"task_id": 7, "traj": HI, "info": {"user": "mia"}}])

    assert sessions(invoke)[0]["metadata"] == {"import": {"task_id": 7, "info": {"user": "mia"}}}


def test_importing_again_adds_nothing(invoke: Invoke, imported: Imported, db: Path) -> None:
    values = [{"messages": HI, "n": n} for n in range(120)]
    first = imported(values)
    before = exported(invoke)

    again = imported(values)

    assert (first["sessions"], again["sessions"], again["already_there"]) == (120, 0, 120)
    assert exported(invoke) == before
    assert len(sessions(invoke)) == 120


def test_two_equal_conversations_are_both_kept_once_each(
    invoke: Invoke, imported: Imported
) -> None:
    figures = [imported([HI, HI]) for _ in range(2)]

    assert [(each["sessions"], each["already_there"]) for each in figures] == [(2, 0), (0, 2)]
    first, second = sorted(session["id"] for session in sessions(invoke))
    assert second == f"{first}-2"


def test_one_file_named_twice_adds_nothing_twice(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([HI]), encoding="utf-8")

    invoke("import", file, file)

    assert exported(invoke) == [HI]


def test_an_interrupted_import_is_completed_by_the_next(
    invoke: Invoke, imported: Imported, db: Path
) -> None:
    imported([HI])
    with apsw.Connection(str(db)) as connection:
        # As if the process had ended between the session and its records.
        for table in ("records", "idempotency"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE sessions SET seq = 0")
    connection.close()

    assert imported([HI])["sessions"] == 1
    assert exported(invoke) == [HI]


def test_another_version_that_stored_it_differently_does_not_make_it_new(
    invoke: Invoke, imported: Imported, db: Path
) -> None:
    imported([HI])
    with apsw.Connection(str(db)) as connection:
        connection.execute("UPDATE idempotency SET digest = x'00'")
    connection.close()

    assert imported([HI])["already_there"] == 1


@pytest.mark.parametrize("window", [1, 7, 50])
def test_the_order_of_the_file_is_kept(
    window: int, invoke: Invoke, imported: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "WINDOW", window)
    values = [conversation(f"number {number}", "x" * (number % 11)) for number in range(300)]

    imported(*values, lines=True)

    assert exported(invoke) == values


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('{"messages": [', "not JSON", id="bad JSON"),
        pytest.param('[{"role": "user", "content": "\\ud800"}]', "lone surrogate", id="surrogate"),
        pytest.param('[{"role": "user", "content": NaN}]', "NaN", id="NaN"),
        pytest.param('[{"role": "user", "content": "a", "n": 1e999}]', "infinity", id="infinity"),
        pytest.param('{"a": 1}', "no key holds a list of messages", id="no messages"),
        pytest.param('{"messages": []}', "has no messages", id="empty"),
        pytest.param("[]", "has no messages", id="empty list"),
        pytest.param('"text"', "not a conversation", id="text"),
        pytest.param("[[[]]]", "not a conversation", id="lists"),
        pytest.param(f'[{{"role":"user"}}, {{"content":"{SECRET}"}}]', "message 2: ", id="no role"),
        pytest.param(f'[{{"role":"user"}}, "{SECRET}"]', "message 2: ", id="text as message"),
        pytest.param(
            f'[{{"role":"user","content":{{"{SECRET}":1}}}}]', "of type dict", id="content"
        ),
        pytest.param("[" * 200_000 + "]" * 200_000, "too deeply", id="deep"),
        pytest.param(
            '[{"role":"user","content":[' + "[" * 300 + "]" * 300 + "]}]", "200 levels", id="levels"
        ),
        pytest.param('{"asynchistory": 3}', "upgrade asynchistory", id="newer export"),
        pytest.param('{"asynchistory": 2}', "malformed", id="malformed export"),
    ],
)
def test_a_broken_line_is_named_and_the_others_go_in(
    line: str, reason: str, invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "some.jsonl"
    good = [conversation("before"), conversation("after")]
    file.write_text(f"{json.dumps(good[0])}\n\n{line}\n{json.dumps(good[1])}\n", encoding="utf-8")

    result = invoke("import", file, "--json", code=1)

    assert f"{file}: line 3: " in result.stderr
    assert reason in result.stderr
    assert SECRET not in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert json.loads(result.stdout)["broken"] == 1
    assert exported(invoke) == good


def test_a_broken_first_line_does_not_hide_the_others(invoke: Invoke) -> None:
    result = invoke("import", "-", code=1, input=f'{{"broken\n{json.dumps(HI)}\n')

    assert "standard input: line 1: not JSON" in result.stderr
    assert exported(invoke) == [HI]


def test_a_line_that_is_not_utf8(invoke: Invoke) -> None:
    text = json.dumps(HI).encode() + b'\n[{"role":"user","content":"\xff"}]\n'

    result = invoke("import", "-", code=1, input=text)

    assert "line 2: not UTF-8" in result.stderr


def test_a_broken_document_is_one_error(invoke: Invoke, db: Path) -> None:
    result = invoke("import", "-", code=1, input='[\n{"role": "user"},\n{"role": \n]')

    assert "not JSON (line 4, column 1)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not db.exists()


def test_one_bad_conversation_of_a_document_does_not_cost_the_others(invoke: Invoke) -> None:
    bad = '[{"role": "user", "content": "\\udc00"}]'

    result = invoke("import", "-", code=1, input=f"[{json.dumps(HI)}, {bad}, {json.dumps(HI)}]")

    assert "conversation 2: message 1: " in result.stderr
    assert exported(invoke) == [HI, HI]


def test_a_record_that_is_too_large_leaves_nothing_behind(invoke: Invoke, db: Path) -> None:
    result = invoke("import", "-", code=1, input=json.dumps(conversation("a", "b" * (17 << 20))))

    assert "message 2: " in result.stderr
    assert "16777216" in result.stderr
    assert not db.exists()


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "\ufeff"])
def test_empty_input(text: str, invoke: Invoke, db: Path) -> None:
    result = invoke("import", "-", code=1, input=text.encode())

    assert "nothing to import" in result.stderr
    assert not db.exists()


def test_a_byte_order_mark_and_carriage_returns(invoke: Invoke) -> None:
    lines = f"\ufeff{json.dumps(HI)}\r\n{json.dumps(conversation('b'))}\r\n"

    invoke("import", "-", input=lines.encode())

    assert exported(invoke) == [HI, conversation("b")]


def test_a_missing_file_does_not_stop_the_others(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(HI), encoding="utf-8")

    result = invoke("import", tmp_path / "missing", file, tmp_path, code=1)

    assert len(result.stderr.splitlines()) == 2
    assert exported(invoke) == [HI]


def test_a_store_that_fails_ends_the_import(invoke: Invoke, db: Path) -> None:
    db.write_text("not a database" * 1000, encoding="utf-8")

    result = invoke("import", "-", code=1, input=json.dumps(HI))

    assert "is not a database" in result.stderr
    assert result.stdout == ""


# -- what export wrote ---------------------------------------------------------------------------


def test_an_export_comes_back_with_ids_times_and_metadata(
    invoke: Invoke, imported: Imported, db: Path
) -> None:
    imported([{"messages": with_tools(), "task": 1}, HI])
    lines = invoke("export").stdout
    db.rename(db.with_name("old.db"))

    for added in (2, 0):
        figures = json.loads(invoke("import", "-", "--json", input=lines).stdout)
        assert (figures["sessions"], figures["already_there"]) == (added, 2 - added)

    again = [json.loads(line) for line in invoke("export").stdout.splitlines()]
    for before, after in zip(map(json.loads, lines.splitlines()), again, strict=True):
        assert after["records"] == before["records"]
        assert after["keys"] == [
            {**key, "epoch": after["session"]["epoch"]} for key in before["keys"]
        ]
        assert {**after["session"], "epoch": 0} == {**before["session"], "epoch": 0}


def test_an_export_is_already_there_where_it_comes_from(invoke: Invoke, imported: Imported) -> None:
    imported([HI, with_tools()])

    figures = json.loads(invoke("import", "-", "--json", input=invoke("export").stdout).stdout)

    assert (figures["sessions"], figures["already_there"]) == (0, 2)


def test_a_session_of_the_same_id_with_other_records_is_not_touched(
    invoke: Invoke, imported: Imported
) -> None:
    imported([HI])
    line = json.loads(invoke("export").stdout)
    line["records"][1]["parts"][0]["text"] = SECRET

    result = invoke("import", "-", code=1, input=json.dumps(line))

    assert "exists with other records" in result.stderr
    assert SECRET not in result.stderr
    assert exported(invoke) == [HI]


def test_more_records_than_are_there_are_not_taken_for_the_same(
    invoke: Invoke, imported: Imported
) -> None:
    imported([HI])
    line = json.loads(invoke("export").stdout)
    line["records"].append({**line["records"][0], "record_id": "0" * 32, "seq": 3})
    line["session"]["seq"] = 3

    result = invoke("import", "-", code=1, input=json.dumps(line))

    assert "exists with other records" in result.stderr
    assert exported(invoke) == [HI]


def test_an_empty_session_comes_back(invoke: Invoke, imported: Imported, db: Path) -> None:
    imported([HI])
    line = json.loads(invoke("export").stdout)
    line["records"], line["keys"] = [], []
    line["session"] |= {"id": "empty", "seq": 0}

    for added in (1, 0):
        figures = json.loads(invoke("import", "-", "--json", input=json.dumps(line)).stdout)
        assert figures["sessions"] == added
    assert exported(invoke, "empty") == [[]]


def test_damaged_records_are_said_and_the_others_come_through(
    invoke: Invoke, imported: Imported, db: Path
) -> None:
    imported([conversation("a", "b", "c")])
    with apsw.Connection(str(db)) as connection:
        connection.execute("UPDATE records SET body = replace(body, 'b', 'x') WHERE seq = 2")
    connection.close()

    native = invoke("export", code=1)
    openai = invoke("export", "--format", "openai", code=1)

    assert "1 record damaged" in native.stderr
    assert [message["content"] for message in json.loads(openai.stdout)[0]] == ["a", "c"]
    assert "damaged" in invoke("show", "last").stdout
    invoke("rm", "last", "--yes")
    result = invoke("import", "-", code=1, input=native.stdout)
    assert "line 1: 1 record left out" in result.stderr
    assert [message["content"] for message in exported(invoke)[0]] == ["a", "c"]
