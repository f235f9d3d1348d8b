"""The types that a type checker sees; ``cases.py`` holds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_types_are_as_promised() -> None:
    pytest.importorskip("mypy", reason="dev.py check installs mypy")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/cases.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
