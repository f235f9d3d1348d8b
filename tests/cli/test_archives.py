"""export, import, verify and backup: a store as a whole, from the command line."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from asynchistory import open_history
from tests.cli.conftest import Invoke
from tests.contract.archiving import figures, lines_of, live, sessions_in

SECRET = "Über"  # what a session's title begins with


@pytest.fixture
def lived(db: Path) -> None:
    async def fill() -> None:
        async with open_history(db) as history:
            await live(history)

    anyio.run(fill)


def look(db: Path) -> tuple[list[bytes], list[Any]]:
    async def read() -> tuple[list[bytes], list[Any]]:
        async with open_history(db) as history:
            return await lines_of(history), await figures(history)

    return anyio.run(read)


def damage(db: Path, sql: str) -> None:
    with closing(apsw.Connection(str(db))) as connection:
        connection.execute(sql)


# -- export and import


@pytest.mark.usefixtures("lived")
def test_the_command_loses_nothing(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    before, counted = look(db)

    text = invoke("export").stdout
    other = tmp_path / "other.db"
    figures = json.loads(invoke("import", "-", "--db", other, "--json", input=text).stdout)

    assert (figures["sessions"], figures["already_there"]) == (8, 0)
    after, found = look(other)
    assert sessions_in(after) == sessions_in(before)
    assert found == counted
    again = json.loads(invoke("import", "-", "--db", other, "--json", input=text).stdout)
    assert (again["sessions"], again["already_there"], again["broken"]) == (0, 8, 0)


@pytest.mark.usefixtures("lived")
def test_the_command_says_what_the_library_says(invoke: Invoke, db: Path) -> None:
    lines, _ = look(db)

    printed = invoke("export").stdout_bytes.splitlines(keepends=True)

    assert [json.loads(line) for line in printed] == [json.loads(line) for line in lines]
    assert b"\x7f" in b"".join(lines)
    assert b"\x7f" not in b"".join(printed)


@pytest.mark.usefixtures("lived")
def test_what_show_prints_is_a_line_too_but_not_a_part_of_it(
    invoke: Invoke, db: Path, tmp_path: Path
) -> None:
    whole, part = (invoke("show", "bob's", *args, "--json").stdout for args in ((), ("-n", 2)))
    other = tmp_path / "other.db"

    invoke("import", "-", "--db", other, input=whole)
    result = invoke("import", "-", "--db", tmp_path / "third.db", input=part, code=1)

    assert "record 1: its seq is not its place" in result.stderr
    [found] = sessions_in(look(other)[0])
    [session] = [value for value in sessions_in(look(db)[0]) if value["session"]["id"] == "bob's"]
    assert found["records"] == session["records"]


@pytest.mark.usefixtures("lived")
def test_lines_of_version_1_are_taken(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    lines = [
        {**json.loads(line), "asynchistory": 1}
        for line in invoke("export").stdout.split("\n")
        if line
    ]
    for line in lines:
        line.pop("keys", None)
    text = "\n".join(map(json.dumps, lines))

    invoke("import", "-", "--db", tmp_path / "other.db", input=text)
    again = json.loads(invoke("import", "-", "--json", input=text).stdout)

    assert again["already_there"] == 8
    before, after = (sessions_in(look(path)[0]) for path in (db, tmp_path / "other.db"))
    assert [value["records"] for value in after] == [value["records"] for value in before]


@pytest.mark.usefixtures("lived")
def test_what_is_left_of_a_damaged_database_comes_out(
    invoke: Invoke, db: Path, tmp_path: Path
) -> None:
    damage(db, "UPDATE records SET body = '' WHERE rowid = 1")
    damage(db, "DELETE FROM records WHERE rowid IN (2, 10)")
    # The first two are in two forks too.
    other = tmp_path / "other.db"

    exported = invoke("export", code=1)
    result = invoke("import", "-", "--db", other, input=exported.stdout, code=1)

    assert "7 records damaged" in exported.stderr
    assert "line 2: 3 records left out, damaged when this was exported" in result.stderr
    assert "nothing wrong" in invoke("verify", "--db", other).stdout
    assert len(look(other)[0]) == 8


# -- verify


@pytest.mark.usefixtures("lived")
def test_verify_says_that_all_is_well(invoke: Invoke) -> None:
    result = invoke("verify")

    assert "8 conversations" in result.stdout
    assert "nothing wrong" in result.stdout
    assert json.loads(invoke("verify", "--json").stdout) == {
        "ok": True, "sessions": 8, "records": 45, "damaged": [], "problems": [],
    }  # fmt: skip


@pytest.mark.usefixtures("lived")
def test_verify_names_what_is_wrong(invoke: Invoke, db: Path) -> None:
    damage(db, "UPDATE records SET crc = crc + 1 WHERE rowid = 1")
    damage(db, "UPDATE sessions SET metadata = '' WHERE id = 'empty'")

    shown = invoke("verify", code=1)
    found = json.loads(invoke("verify", "--json", code=1).stdout)

    assert "damaged: record 1 of chat (checksum)" in shown.stdout
    assert "problem: session 'empty': its metadata is not a JSON object" in shown.stdout
    assert "2 faults" in shown.stdout
    assert SECRET not in shown.stdout
    assert (found["ok"], len(found["problems"])) == (False, 1)
    assert found["damaged"] == [{"session_id": "chat", "seq": 1, "reason": "checksum"}]


@pytest.mark.usefixtures("lived")
def test_names_of_others_cannot_act_on_the_terminal(invoke: Invoke, db: Path) -> None:
    damage(db, "UPDATE sessions SET id = 'a' || char(27) || '[2J' WHERE id = 'chat'")
    damage(db, "UPDATE records SET crc = crc + 1 WHERE rowid = 1")
    damage(db, "UPDATE sessions SET fork_seq = 999")

    shown = invoke("verify", code=1).stdout

    assert "\x1b" not in shown
    assert r"record 1 of a\x1b[2J" in shown


# -- backup


@pytest.mark.usefixtures("lived")
def test_backup_makes_a_database(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    dest = tmp_path / "copy.db"

    shown = invoke("backup", dest)
    refused = invoke("backup", dest, code=1)
    again = json.loads(invoke("backup", dest, "--overwrite", "--json").stdout)

    assert str(dest) in shown.stdout
    assert "--overwrite" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert again == {
        "path": str(dest), "bytes": os.path.getsize(dest), "database": f"sqlite:///{db}",
    }  # fmt: skip
    assert look(dest) == look(db)


@pytest.mark.usefixtures("lived")
def test_backup_to_nowhere_is_one_line_of_error(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("backup", tmp_path / "missing" / "copy.db", code=1)

    assert "No such file" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_database_in_memory_has_no_backup(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("backup", tmp_path / "copy.db", "--db", "memory://", code=1)

    assert "export" in result.stderr


@pytest.mark.parametrize("args", [("verify",), ("backup", "copy.db")])
def test_without_a_database_none_is_made(args: tuple[str, ...], invoke: Invoke, db: Path) -> None:
    result = invoke(*args, code=1)

    assert "No conversations yet" in result.stderr
    assert not db.exists()
