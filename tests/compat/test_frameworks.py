"""The how-to pages' own code under real frameworks and servers, each in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

from asynchistory_compat import HistoryManager

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
#: Seconds after which something hangs.
LIMIT = 60
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def code_of(page: str) -> list[str]:
    """The Python blocks of a page."""
    parser = CodeBlockParser(language="python", evaluator=lambda example: None)
    document = Document.parse(str(PAGES / page), parser)
    return [str(example.parsed) for example in document.examples()]


def script(folder: Path, code: str) -> str:
    """What a program prints that is run there."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def server(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that goes on until it is asked to end, which it then does well."""
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors, errors
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def lines_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """What the first line matches that does."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if match := re.search(pattern, line):
            return match
    raise AssertionError("".join(seen))


# -- test clients; test_docs.py runs the pages' own short programs


def test_flask_under_eight_threads(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code_of("flask.md")[0])
    program = """
        from concurrent.futures import ThreadPoolExecutor
        from app import app, history

        def work(number):
            with app.test_client() as client:
                for turn in range(25):
                    client.post("/chats/chat", json={"text": f"{number} {turn}"})
                return client.get("/chats/chat").status_code

        with ThreadPoolExecutor(8) as pool:
            print(set(pool.map(work, range(8))), history.get_session("chat").seq)
    """
    assert script(tmp_path, program) == "{200} 200\n"


def test_fastapi_with_more_requests_than_workers(tmp_path: Path) -> None:
    """def and async def endpoints on one manager, a hundred at once; the app opens and closes."""
    (tmp_path / "app.py").write_text(code_of("fastapi.md")[0])
    program = """
        import warnings
        import anyio, httpx
        from app import app, history, lifespan, manager
        from asynchistory import NotOpenError

        warnings.simplefilter("error")
        codes, seen = set(), []

        async def say(client, number):
            codes.add((await client.post("/chats/chat", params={"text": str(number)})).status_code)
            seen.append(len((await client.get("/chats/chat")).json()))

        async def main():
            transport = httpx.ASGITransport(app)
            async with (
                lifespan(app),
                httpx.AsyncClient(transport=transport, base_url="http://test") as client,
                anyio.create_task_group() as tasks,
            ):
                for number in range(100):
                    tasks.start_soon(say, client, number)

        for backend in ("asyncio", "trio"):
            anyio.run(main, backend=backend)
        print(codes, all(seen), history.get_session("chat").seq)
    """
    assert script(tmp_path, program) == "{200} True 200\n"


def test_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_chat.py").write_text(code_of("pytest.md")[0])
    program = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    assert "2 passed" in script(tmp_path, program)


# -- servers that fork


@posix
@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code_of("gunicorn.md")[0])
    arguments = ["gunicorn", "--workers", "2", "--threads", "2", "--bind", "127.0.0.1:0"]
    with server(tmp_path, *arguments, *options, "app:app") as process:
        port = lines_until(process, r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        url = f"http://127.0.0.1:{port}/hello"
        pids: set[int] = set()
        count = 0
        while len(pids) < 2 or count < 20:
            request = urllib.request.Request(url, method="POST")
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                pids.add(json.load(answer)["pid"])
            count += 1
            assert count < 2000, "one worker answers everything"
    with HistoryManager(tmp_path / "chat.db") as history:
        assert history.get_session("chat-1").seq == count
        assert history.verify().ok


@posix
def test_celery(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(code_of("celery.md")[0])
    for folder in ("queue", "results"):
        (tmp_path / folder).mkdir()
    arguments = ["celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2"]
    with server(tmp_path, *arguments, "--without-gossip", "--without-mingle"):
        program = """
            from tasks import say

            asked = [say.delay("chat", str(number)) for number in range(10)]
            print(sorted(result.get(timeout=40) for result in asked))
        """
        assert script(tmp_path, program) == f"{list(range(1, 11))}\n"
    with HistoryManager(tmp_path / "chat.db") as history:
        assert {record.text for record in history.last("chat")} == set(map(str, range(10)))


# -- a notebook


def test_a_notebook(tmp_path: Path) -> None:
    cells = code_of("jupyter.md")
    warned = """
        import warnings
        from asynchistory_compat import BlockingInLoopWarning
        configure(loop_policy="warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(3):
                history.count()
        print([warning.category is BlockingInLoopWarning for warning in caught])
    """
    awaited = "print([record.text for record in await history.target.last('chat-1')])"
    (tmp_path / "cells.json").write_text(json.dumps([*cells, textwrap.dedent(warned), awaited]))
    program = """
        import json, pathlib, warnings
        import nbformat
        from nbclient import NotebookClient

        cells = json.loads(pathlib.Path("cells.json").read_text())
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        NotebookClient(notebook, timeout=40, kernel_name="python3").execute()
        for cell in notebook.cells:
            print(*[output.get("text", "").strip() for output in cell.outputs if "text" in output])
    """
    printed = script(tmp_path, program).splitlines()
    assert printed[1:] == ["['Hello from a notebook']", "[True]", "['Hello from a notebook']"]
