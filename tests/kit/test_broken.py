"""The kit finds what is wrong with stores that are broken on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A broken store, and tests that must be among those that say so.
CAUGHT = {
    "Losing": ["test_of_many_records_none_is_lost", "test_of_many_appends_at_once_none_is_lost"],
    "Reordering": ["test_what_is_appended_is_read_in_its_order"],
    "Forgetful": ["test_a_key_stores_once", "test_a_key_at_once_stores_once"],
    "Sharing": ["test_a_change_of_the_parent_does_not_change_a_fork"],
}


@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_a_broken_store_is_caught(name: str) -> None:
    selected = f"tests/kit/broken.py::Test{name}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", selected, "-q", "-p", "no:cacheprovider", "--tb=no"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    for loop in ("asyncio", "trio"):
        for test in CAUGHT[name]:
            assert any(
                line.startswith("FAILED") and test in line and loop in line
                for line in done.stdout.splitlines()
            ), f"{test} on {loop} found nothing:\n{done.stdout}"
