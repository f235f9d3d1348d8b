"""The command as a process: start-up, exit codes, pipes, Ctrl-C, the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from asynchistory.cli.demo import what_is_wrong
from tests.cli.conftest import Invoke
from tests.cli.samples import conversation

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "asynchistory.cli"]
HEAVY = ["anyio", "apsw", "asyncio", "cachetools", "httpx2", "msgspec", "trio"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "compat"), os.environ.get("PYTHONPATH", "")])
    found = {**os.environ, "PYTHONPATH": path, "XDG_DATA_HOME": str(tmp_path / "data")}
    found.pop("ASYNCHISTORY_URL", None)
    return found


def run(
    environment: dict[str, str], *args: object, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        env=environment, input=input, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "unloaded"), [(["--version"], [*HEAVY, "click"]), (["--help"], HEAVY)]
)
def test_start_up_loads_nothing_that_is_not_needed(
    args: list[str], unloaded: list[str], environment: dict[str, str]
) -> None:
    program = (
        "import sys, atexit, json\n"
        "from asynchistory.cli import main\n"
        f"names = {unloaded}\n"
        "atexit.register(lambda: print(json.dumps([n for n in names if n in sys.modules])))\n"
        f"sys.argv = ['asynchistory', *{args}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_version(environment: dict[str, str]) -> None:
    from asynchistory import __version__

    for args in (["--version"], ["--json", "--version"]):
        done = run(environment, *args)
        assert (done.returncode, done.stdout) == (0, f"asynchistory {__version__}\n")


def test_exit_codes_and_streams(environment: dict[str, str], tmp_path: Path) -> None:
    line = json.dumps(conversation("Hi"))
    db = ["--db", tmp_path / "x.db"]

    done = run(environment, *db, "import", "-", "--json", input=f"{line}\nbroken\n")
    assert (done.returncode, json.loads(done.stdout)["sessions"]) == (1, 1)
    assert done.stderr.startswith("standard input: line 2: not JSON")
    assert run(environment, *db, "show", "last").returncode == 0
    for args, code in ((["show", "x"], 1), (["show"], 2), (["--nonsense"], 2), (["rm", "x"], 2)):
        done = run(environment, *db, *args, input="")
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr


def test_the_default_is_a_file_in_the_data_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run(environment, "import", "-", input=json.dumps(conversation("Hi")))

    assert (tmp_path / "data" / "asynchistory" / "history.db").exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")
def test_a_closed_pipe_ends_it_quietly(environment: dict[str, str], tmp_path: Path) -> None:
    text = "\n".join(json.dumps(conversation("x" * 1000, str(n))) for n in range(300))
    run(environment, "--db", tmp_path / "x.db", "import", "-", input=text)

    for args in (["export"], ["export", "--format", "openai"], ["ls", "-n", "300"]):
        program = [*COMMAND, "--db", str(tmp_path / "x.db"), *args]
        with subprocess.Popen(
            program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode == 141


@pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")
def test_ctrl_c_ends_a_wait_for_input(environment: dict[str, str], tmp_path: Path) -> None:
    program = [*COMMAND, "--db", str(tmp_path / "x.db"), "import", "-"]
    # More than a window, so that some of it is being stored when it ends.
    lines = b"".join(json.dumps(conversation("Hi", str(n))).encode() + b"\n" for n in range(120))
    read_end, write_end = os.pipe()
    with subprocess.Popen(
        program, env=environment, stdin=read_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        os.close(read_end)
        with os.fdopen(write_end, "wb") as stdin:
            stdin.write(lines * 10)  # the pipe holds less: once written, it is being read
            stdin.flush()
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=30)

    assert (child.returncode, output, errors) == (130, b"", b"")


def demo(environment: dict[str, str], *args: object) -> tuple[dict[str, Any], str]:
    done = run(environment, *args, "demo", "--json")
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures, done.stderr


def test_the_demo(environment: dict[str, str], tmp_path: Path) -> None:
    figures, errors = demo({**environment, "TMPDIR": str(tmp_path)})

    assert errors == ""
    assert [phase["name"] for phase in figures["phases"]] == ["asyncio", "trio", "threads"]
    assert [phase["conversations"] for phase in figures["phases"]] == [100, 100, 100]
    assert [phase["requests"] for phase in figures["phases"]] == [200, 200, 200]
    assert figures["appends"] == sum(phase["appends"] for phase in figures["phases"]) > 1_500
    assert figures["conversations"] == 308
    assert figures["records"] >= 300 * 12 + figures["acknowledged"]
    assert figures["cache_hits"] >= 300
    assert figures["answers"] == 300
    assert figures["http_requests"] == figures["llm_requests"] == 600
    assert figures["tokens"] == figures["tokens_streamed"]
    assert min(figures["tokens"].values()) > 1_000
    assert sorted(figures["costs"]) == ["EUR", "USD"]
    assert all(Decimal(cost) > 0 for cost in figures["costs"].values())
    instances = figures["llm_instances"]
    assert (instances["keys"], instances["created"], instances["per_key"]) == (3, 3, 1)
    assert figures["acknowledged"] >= 400
    assert figures["lost"] == 0
    # Without --db the database stands in a folder of its own.
    assert Path(figures["database"]).parent.parent == tmp_path.resolve()
    check_next_steps(environment, figures)
    check_again(environment, figures["database"])


def check_next_steps(environment: dict[str, str], figures: dict[str, Any]) -> None:
    assert len(figures["next"]) == 3
    for line in figures["next"]:
        _, _, args = line.partition("--db ")
        done = run(environment, "--db", *args.split())
        assert done.returncode == 0, done.stderr
        assert done.stdout


def check_again(environment: dict[str, str], database: str) -> None:
    """A second demo over the same database, and what it says in words."""
    done = run(environment, "--db", database, "demo")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "616" in done.stdout
    for words in ("asyncio", "trio", "plain threads", "SIGKILL", "a second", "Try next:"):
        assert words in done.stdout
    for words in ("600 over HTTP, 600 recorded", "1 per key: 3 created", " EUR + ", "tokens"):
        assert words in done.stdout


def test_the_demo_needs_a_file(environment: dict[str, str]) -> None:
    done = run(environment, "--db", "memory://", "demo")

    assert done.returncode == 1
    assert "needs a database file" in done.stderr


def test_the_demo_without_uvicorn_says_how_to_get_it(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, db: Path
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    assert "pip install 'asynchistory[demo]'" in invoke("demo", code=1).stderr
    assert not db.exists()


WELL: dict[str, Any] = {
    "lost": 0,
    "http_requests": 6,
    "llm_requests": 6,
    "tokens": {"input": 2, "output": 3},
    "tokens_streamed": {"input": 2, "output": 3},
    "llm_instances": {"keys": 3, "created": 3, "per_key": 1},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"lost": 1}, ["lost"]),
        ({"llm_requests": 5}, ["requests"]),
        ({"tokens": {"input": 2, "output": 2}}, ["tokens"]),
        ({"llm_instances": {"keys": 3, "created": 4, "per_key": 1}}, ["more than once"]),
        ({"llm_instances": {"keys": 3, "created": 3, "per_key": 2}}, ["more than once"]),
    ],
)
def test_the_demo_says_what_is_wrong(change: dict[str, Any], words: list[str]) -> None:
    wrong = what_is_wrong({**WELL, **change})

    assert len(wrong) == len(words)
    assert all(word in problem for word, problem in zip(words, wrong, strict=True))
