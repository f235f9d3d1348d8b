"""``asynchistory copy``: a whole store into another one, of any kind, and back."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import apsw
import pytest

from asynchistory import Message, open_history
from tests.cli.conftest import Invoke
from tests.contract.archiving import figures, lines_of, live, sessions_in
from tests.postgres import url_of

REAL = Path(__file__).parents[3] / "shared" / "data" / "tau_bench_gpt4o_airline.json"


@pytest.fixture
def lived(db: Path) -> None:
    async def fill() -> None:
        async with open_history(db) as history:
            await live(history)

    anyio.run(fill)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return url_of(str(tmp_path))


def export(invoke: Invoke, where: object) -> bytes:
    return invoke("export", "--db", where).stdout_bytes


@pytest.mark.usefixtures("lived")
def test_to_postgresql_and_back_nothing_is_lost(
    invoke: Invoke, db: Path, url: str, tmp_path: Path
) -> None:
    back = tmp_path / "back.db"

    there = json.loads(invoke("copy", db, url, "--json").stdout)
    again = json.loads(invoke("copy", url, back, "--json").stdout)

    assert there["ok"]
    assert (there["sessions"], there["already_there"]) == (8, 0)
    assert (again["ok"], again["sessions"]) == (True, 8)

    async def look(place: object) -> tuple[object, object]:
        async with open_history(str(place)) as history:
            return sessions_in(await lines_of(history)), await figures(history)

    wanted = anyio.run(look, db)
    assert anyio.run(look, url) == wanted
    assert anyio.run(look, back) == wanted
    for place in (url, back):
        assert json.loads(invoke("verify", "--db", place, "--json").stdout)["ok"]


@pytest.mark.usefixtures("lived")
def test_run_again_it_goes_on_where_it_was(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(export(invoke, db).splitlines(keepends=True)[:3]))
    other = tmp_path / "other.db"
    invoke("import", part, "--db", other)

    done = json.loads(invoke("copy", db, other, "--json").stdout)
    again = json.loads(invoke("copy", db, other, "--json").stdout)

    assert (done["sessions"], done["already_there"]) == (5, 3)
    assert (again["sessions"], again["already_there"], again["ok"]) == (0, 8, True)


@pytest.mark.usefixtures("lived")
def test_another_conversation_of_the_same_name_is_not_touched(
    invoke: Invoke, db: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"

    async def fill() -> None:
        async with open_history(other) as history:
            await history.append("chat", Message.of("user", "mine"))

    anyio.run(fill)

    result = invoke("copy", db, other, code=1)

    assert "'chat' exists with other records" in result.stderr


@pytest.mark.usefixtures("lived")
def test_a_copy_that_was_damaged_is_told(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    invoke("copy", db, other)
    connection = apsw.Connection(str(other))
    connection.execute("UPDATE records SET crc = crc + 1 WHERE rowid = 3")
    connection.close()

    result = invoke("copy", db, other, code=1)

    assert "exists with other records" in result.stderr


def test_a_store_is_not_copied_to_itself(invoke: Invoke, db: Path) -> None:
    db.touch()

    assert "the same database" in invoke("copy", db, db, code=2).stderr


def test_what_is_not_there_cannot_be_copied(invoke: Invoke, db: Path, tmp_path: Path) -> None:
    assert "there is no database" in invoke("copy", db, tmp_path / "new.db", code=1).stderr
    assert not (tmp_path / "new.db").exists()


@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL.name}")
def test_real_conversations_come_back_byte_for_byte(
    invoke: Invoke, db: Path, url: str, tmp_path: Path
) -> None:
    back = tmp_path / "back.db"
    invoke("import", REAL)

    for source, target in ((db, url), (url, back)):
        copied = json.loads(invoke("copy", source, target, "--json").stdout)
        assert (copied["ok"], copied["sessions"], copied["records"]) == (True, 200, 5_308)

    wanted = export(invoke, db)
    assert len(wanted.splitlines()) == 200
    assert export(invoke, url) == wanted
    assert export(invoke, back) == wanted
