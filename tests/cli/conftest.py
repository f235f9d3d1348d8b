"""A database of one's own, and the command over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asynchistory.cli.app import app

Invoke = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where a database may be made; there is none yet."""
    return tmp_path / "history.db"


@pytest.fixture
def invoke(db: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command over ``db`` in this process."""
    for name in ("ASYNCHISTORY_URL", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: object, code: int = 0, input: str | bytes | None = None) -> Result:
        arguments = ["--db", str(db), *map(str, args)]
        result = CliRunner().invoke(app, arguments, input=input, prog_name="asynchistory")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


@pytest.fixture
def imported(invoke: Invoke, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Imports values as one JSON file, or lines as JSONL, and returns the figures."""

    def run(*values: Any, code: int = 0, lines: bool = False) -> dict[str, Any]:
        file = tmp_path / "import.json"
        texts = [json.dumps(value) for value in values]
        file.write_text("\n".join(texts) if lines else texts[0], encoding="utf-8")
        figures: dict[str, Any] = json.loads(invoke("import", file, "--json", code=code).stdout)
        return figures

    return run
