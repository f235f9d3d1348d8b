"""fork, prune, erase and health over a small database."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchistory import Message, open_history
from tests.cli.conftest import Invoke
from tests.cli.test_chat import Terminal
from tests.cli.test_terminal import ACTIVE, EVIL

PAST = datetime(2001, 1, 1, tzinfo=UTC)
FUTURE = datetime(2101, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("filled")


@pytest.fixture
def filled(db: Path) -> None:
    async def fill() -> None:
        async with open_history(db) as history:
            for name, user, expires, texts in (
                ("chat-mia", "mia", None, ("one", "two", "three")),
                ("chat-old", "mia", PAST, ("Who?", "Nobody.")),
                ("chat-ravi", "ravi", FUTURE, ("Hello",)),
            ):
                await history.create_session(name, user_id=user, expires_at=expires)
                await history.append(name, *(Message.of("user", text) for text in texts))

    anyio.run(fill)


def names(invoke: Invoke) -> set[str]:
    return {json.loads(line)["id"] for line in invoke("ls", "--json").stdout.splitlines()}


def texts(invoke: Invoke, name: str) -> list[str]:
    records = json.loads(invoke("show", name, "--json").stdout)["records"]
    return [record["parts"][0]["text"] for record in records]


# -- fork


def test_a_fork_begins_as_its_origin_does(invoke: Invoke) -> None:
    done = invoke("fork", "chat-m", "other", "--at", 2)

    assert done.stdout == "other\n"
    assert done.stderr == "It begins with 2 of 3 records of chat-mia.\n"
    assert texts(invoke, "other") == ["one", "two"]
    assert texts(invoke, "chat-mia") == ["one", "two", "three"]


def test_a_fork_without_an_id_gets_one_and_all_records(invoke: Invoke) -> None:
    [made] = invoke("fork", "chat-mia").stdout.splitlines()

    assert made not in ("chat-mia", "")
    assert texts(invoke, made) == ["one", "two", "three"]


def test_a_fork_of_the_conversation_that_was_written_last(invoke: Invoke) -> None:
    made = json.loads(invoke("fork", "last", "--json").stdout)

    assert (made["forked_from"], made["user_id"], made["seq"]) == ("chat-ravi", "ravi", 1)


def test_a_fork_for_another_user_holds_records_of_its_own(invoke: Invoke) -> None:
    made = json.loads(invoke("fork", "chat-mia", "copy", "--user", "ravi", "--json").stdout)

    assert (made["user_id"], made["seq"]) == ("ravi", 3)
    invoke("rm", "chat-mia", "--yes")
    assert texts(invoke, "copy") == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nobody"], "no conversation 'nobody'"),
        (["chat-mia", "chat-old"], "there is a conversation 'chat-old' already"),
        (["chat-mia", "new", "--at", "4"], "stands at seq 3"),
        (["chat-mia", ""], "1 to 512 bytes"),
        (["chat-mia", "new", "--user", ""], "1 to 512 bytes"),
    ],
)
def test_what_cannot_be_forked(args: list[str], words: str, invoke: Invoke) -> None:
    done = invoke("fork", *args, code=1)

    assert words in done.stderr
    assert done.stdout == ""
    assert names(invoke) == {"chat-mia", "chat-old", "chat-ravi"}


def test_a_fork_behind_no_record_is_wrong_usage(invoke: Invoke) -> None:
    assert "--at" in invoke("fork", "chat-mia", "--at", -1, code=2).stderr


# -- prune


def test_prune_deletes_what_is_expired(invoke: Invoke) -> None:
    done = invoke("prune")

    assert done.stderr == "Deleted 1 conversation with 2 records.\n"
    assert names(invoke) == {"chat-mia", "chat-ravi"}
    assert json.loads(invoke("prune", "--json").stdout) == {
        "sessions": 0,
        "records": 0,
        "dry_run": False,
    }


def test_prune_tries_without_deleting(invoke: Invoke) -> None:
    done = invoke("prune", "--dry-run")

    [line] = done.stdout.splitlines()
    assert line.startswith("chat-old  2 records · expired 200")
    assert done.stderr == "Would delete 1 conversation; nothing was deleted.\n"
    assert json.loads(invoke("prune", "--dry-run", "--json").stdout) == {
        "sessions": 1,
        "records": None,
        "dry_run": True,
    }
    assert len(names(invoke)) == 3


def test_prune_by_age(invoke: Invoke, db: Path) -> None:
    with sqlite3.connect(db) as connection:  # the command is not running
        connection.execute("UPDATE sessions SET updated = 0 WHERE id = 'chat-mia'")
    connection.close()

    shown = invoke("prune", "--older-than", "4w", "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["chat-mia", "chat-old"]
    assert "last written 19" in shown[0]
    done = json.loads(invoke("prune", "--older-than", "90d", "--json").stdout)

    assert (done["sessions"], done["records"]) == (2, 5)
    assert names(invoke) == {"chat-ravi"}


@pytest.mark.parametrize("age", ["30min", "12h", "1d", "4w", "0365d"])
def test_ages(age: str, invoke: Invoke) -> None:
    assert "Would delete 1" in invoke("prune", "--older-than", age, "--dry-run").stderr


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("0d", "an age of 0"),
        ("99999999w", "longer ago"),
        ("90", "not an age"),
        ("-1d", "not an age"),
        ("1.5d", "not an age"),
        ("3m", "not an age"),  # minutes, or months?
        ("٣d", "not an age"),
        ("d", "not an age"),
        ("", "not an age"),
        (EVIL, "not an age"),
    ],
)
def test_what_is_no_age(age: str, words: str, invoke: Invoke) -> None:
    error = invoke("prune", f"--older-than={age}", code=2).stderr

    assert words in error
    assert not ACTIVE.search(error)
    assert len(names(invoke)) == 3


# -- erase


def test_erase_deletes_all_of_a_user_and_its_traces(invoke: Invoke, db: Path) -> None:
    done = invoke("erase", "mia", "--yes")

    assert done.stderr == "Erased 2 conversations with 5 records of user 'mia'.\n"
    assert names(invoke) == {"chat-ravi"}
    for file in db.parent.glob(f"{db.name}*"):
        assert b"chat-mia" not in file.read_bytes()


def test_an_erase_of_nobody_says_so_by_its_exit_code(invoke: Invoke) -> None:
    done = invoke("erase", "nobody", "--yes", "--json", code=1)

    assert json.loads(done.stdout) == {
        "user_id": "nobody",
        "sessions": 0,
        "records": 0,
        "scrubbed": True,
        "dry_run": False,
    }
    assert "Erased 0 conversations" in done.stderr


def test_erase_may_leave_the_file_as_it_is(invoke: Invoke) -> None:
    done = json.loads(invoke("erase", "mia", "--yes", "--no-scrub", "--json").stdout)

    assert (done["sessions"], done["records"], done["scrubbed"]) == (2, 5, False)
    assert names(invoke) == {"chat-ravi"}


def test_erase_tries_without_deleting(invoke: Invoke) -> None:
    done = invoke("erase", "mia", "--dry-run", "--json")

    assert json.loads(done.stdout)["sessions"] == 2
    assert "Would erase 2 conversations of user 'mia'; nothing was deleted." in done.stderr
    assert invoke("erase", "nobody", "--dry-run", code=1).stdout == ""
    assert len(names(invoke)) == 3


def test_erase_counts_page_by_page(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from asynchistory.cli import running

    monkeypatch.setattr(running, "PAGE", 1)

    assert "Would erase 2" in invoke("erase", "mia", "--dry-run").stderr


def test_erase_needs_yes_without_a_terminal(invoke: Invoke) -> None:
    assert "--yes" in invoke("erase", "mia", code=2).stderr
    assert len(names(invoke)) == 3


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 3), ("y", 0, 1)])
def test_erase_asks_on_a_terminal(
    answer: str, code: int, left: int, db: Path, invoke: Invoke, closing: list[Any]
) -> None:
    terminal = Terminal(db, "erase", "mia")
    closing.append(terminal)

    terminal.wait_for("Erase 2 conversations of user 'mia'? [y/N]: ")
    terminal.type(f"{answer}\n")

    assert terminal.end() == code
    assert len(names(invoke)) == left


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    opened: list[Any] = []
    yield opened
    for each in opened:
        each.close()


# -- health


def test_health_says_how_long_it_takes(invoke: Invoke, db: Path) -> None:
    found = json.loads(invoke("health", "--json").stdout)

    assert list(found) == [
        "ok", "url", "problem", "write_time", "read_time", "file_bytes", "wal_bytes",
    ]  # fmt: skip
    assert (found["ok"], found["problem"]) == (True, None)
    assert found["url"] == f"sqlite:///{db}"
    assert min(found["write_time"], found["read_time"]) > 0
    assert found["file_bytes"] > 0
    shown = invoke("health").stdout.splitlines()
    assert [line.split("  ")[0] for line in shown] == [
        "state", "write", "read", "database", "its log", "url",
    ]  # fmt: skip
    assert shown[0].split() == ["state", "ok"]


def test_health_of_what_cannot_be_opened_fails(invoke: Invoke, db: Path) -> None:
    db.write_text("x" * 5_000, encoding="utf-8")

    words = invoke("health", code=1)
    found = json.loads(invoke("health", "--json", code=1).stdout)

    assert words.stdout.split()[:2] == ["state", "failed"]
    assert "is not a database" in words.stderr
    assert (found["ok"], found["write_time"]) == (False, None)
    assert "is not a database" in found["problem"]


# -- all of them


@pytest.mark.parametrize(
    ("args", "code"),
    [(["fork", "x"], 1), (["prune"], 0), (["erase", "mia", "--yes"], 1), (["health"], 1)],
)
def test_without_a_database_none_is_made(
    args: list[str], code: int, invoke: Invoke, db: Path
) -> None:
    db.unlink()

    assert "there is no database" in invoke(*args, code=code).stderr
    assert not db.exists()


def test_stored_text_cannot_act_on_the_terminal(invoke: Invoke, db: Path) -> None:
    async def fill() -> None:
        async with open_history(db) as history:
            await history.create_session(EVIL, user_id=EVIL, title=EVIL, expires_at=PAST)

    anyio.run(fill)

    for args, code in (
        (["fork", EVIL, EVIL + "2"], 0),
        (["fork", EVIL, EVIL], 1),
        (["prune", "--dry-run"], 0),
        (["erase", EVIL, "--dry-run"], 0),
        (["erase", EVIL, "--yes"], 0),
        (["erase", EVIL, "--yes"], 1),
    ):
        done = invoke(*args, code=code)
        assert not ACTIVE.search(done.stdout + done.stderr)
