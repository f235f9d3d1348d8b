"""The types that type checkers see; ``cases.py`` and ``compat_cases.py`` hold them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


CASES = ("tests/typing/cases.py", "tests/typing/compat_cases.py")


def test_types_are_as_promised() -> None:
    pytest.importorskip("mypy", reason="dev.py check installs mypy")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *CASES], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_sees_the_same_in_synchronous_code(tmp_path: Path) -> None:
    """Where mypy's errors are expected pyright has its own, and it has none anywhere else."""
    pytest.importorskip("pyright", reason="dev.py check installs pyright")
    lines = (ROOT / CASES[1]).read_text(encoding="utf-8").splitlines()
    # Its own rule about comments for mypy would hide what is to be seen.
    (tmp_path / "cases.py").write_text("\n".join(line.partition("  # type:")[0] for line in lines))

    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "."],
        cwd=tmp_path,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )

    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {item["range"]["start"]["line"] for item in found if item["severity"] == "error"}
    expected = {number for number, line in enumerate(lines) if "# type: ignore" in line}
    assert {lines[number] for number in errors ^ expected} == set()
    assert len(expected) > 25
