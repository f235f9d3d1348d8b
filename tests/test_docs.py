"""Every example in the documentation runs: Python on both event loops, commands in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from tests.postgres import url_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Commands that are about a clone or an installation, and are tested elsewhere.
ELSEWHERE = ("python3 dev.py", "pip install", "git clone", "gunicorn", "celery")
#: The server of the examples, in the place of which the tests' own is used.
EXAMPLE_SERVER = "postgresql://app:secret@db.example/chats"


def blocks(language: str) -> list[pytest.param]:
    found = []
    for page in PAGES:
        parser = CodeBlockParser(language=language, evaluator=lambda example: None)
        for example in Document.parse(str(page), parser).examples():
            name = f"{page.relative_to(ROOT)}:{example.line}"
            found.append(pytest.param(example, id=name))
    return found


def on_trio(code: str) -> str:
    """The same program on the other event loop, if it starts one."""
    if "asyncio.run(main())" not in code:
        return code
    code = code.replace("import asyncio", "import trio").replace("asyncio.sleep", "trio.sleep")
    return code.replace("asyncio.run(main())", "trio.run(main)")


@pytest.mark.parametrize("example", blocks("python"))
def test_python_examples(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = str(example.parsed)
    for folder, program in {"as-written": code, "on-trio": on_trio(code)}.items():
        if folder == "on-trio" and program == code:
            continue
        (tmp_path / folder).mkdir()
        if "open_history(URL)" in program:
            program = program.replace(EXAMPLE_SERVER, url_of(str(tmp_path / folder)))
        (tmp_path / folder / "example.py").write_text(program, encoding="utf-8")
        done = run([sys.executable, "-W", "error", "example.py"], tmp_path / folder)
        assert done.returncode == 0, done.stderr
        check_printed(program, done.stdout)


def check_printed(program: str, printed: str) -> None:
    """A comment behind a print says how the line begins that it prints."""
    lines = iter(printed.splitlines())
    for expected in re.findall(r"print\(.*\)  # (.+)", program):
        wanted = expected.split(", the ")[0]
        assert any(line == wanted for line in lines), f"{wanted!r} was not printed:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_console_examples(page: Path, tmp_path: Path) -> None:
    from asynchistory_compat import HistoryManager

    with HistoryManager(tmp_path / "chat.db") as history:
        history.record_message("chat-1", "user", "Hello from the documentation")
    parser = CodeBlockParser(language="console", evaluator=lambda example: None)
    for example in Document.parse(str(page), parser).examples():
        for line in str(example.parsed).splitlines():
            command = line.removeprefix("$ ")
            if EXAMPLE_SERVER in command:
                command = command.replace(EXAMPLE_SERVER, url_of(str(tmp_path)))
            if command != line and not command.startswith(ELSEWHERE):
                done = run(["bash", "-c", command], tmp_path)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "XDG_DATA_HOME": str(folder), "NO_COLOR": "1"}
    environment.pop("ASYNCHISTORY_URL", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
