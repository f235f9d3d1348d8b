"""What an import costs, and what the package's source never does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("asynchistory/**/*.py"), *ROOT.glob("compat/**/*.py")]
LATE = {"httpx", "httpx2", "trio", "coredis", "psycopg", "genai_prices", "langchain"}


def test_import_loads_neither_trio_nor_httpx_nor_an_extra() -> None:
    program = "import json, sys, asynchistory; print(json.dumps(sorted(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "asynchistory" in loaded
    assert loaded.isdisjoint(LATE)


def calls_of_asyncio_run(source: str) -> Iterator[int]:
    """The lines that call ``asyncio.run``, by whatever name it was imported."""
    tree = ast.parse(source)
    modules, functions = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.asname or name.name for name in node.names if name.name == "asyncio"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asyncio"):
            functions |= {name.asname or name.name for name in node.names if name.name == "run"}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr="run")):
                if module in modules:
                    yield node.lineno
            case ast.Call(func=ast.Name(id=function)):
                if function in functions:
                    yield node.lineno


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import asyncio\nasyncio.run(main())", [2]),
        ("def f():\n    import asyncio as aio\n    return aio.run(main())", [3]),
        ("from asyncio import run as go\ngo(main())", [2]),
        ("import anyio\nanyio.run(main)\n'asyncio.run(main())'  # asyncio.run(main())", []),
    ],
)
def test_calls_of_asyncio_run_are_found(source: str, lines: list[int]) -> None:
    assert list(calls_of_asyncio_run(source)) == lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_file_calls_asyncio_run(path: Path) -> None:
    assert not list(calls_of_asyncio_run(path.read_text(encoding="utf-8")))


def test_the_public_door_opens_what_type_checkers_see() -> None:
    import asynchistory

    tree = ast.parse(Path(asynchistory.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (str(node.module).removeprefix("asynchistory."), alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazily = {(module, name) for module, names in asynchistory._NAMES.items() for name in names}
    assert seen == lazily
    for _, name in lazily:
        assert getattr(asynchistory, name) is not None
