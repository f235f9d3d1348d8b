"""What the tests of read-only files found."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from tests.faults.batches import contents
from tests.faults.report import LOOPS
from tests.faults.test_read_only import database, files, refused, said

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")

BACKENDS = pytest.mark.parametrize("backend", LOOPS)


@BACKENDS
@pytest.mark.parametrize("left", ["closed", "crashed"])
def test_a_read_only_file(open_database: Path, backend: str, left: str) -> None:
    """It must not leave a log beside it, which would be its own and not the file's owner's."""
    path = database(open_database, left)
    path.chmod(0o444)
    before = files(path.parent)

    refused(said(path, backend), path)

    path.chmod(0o600)
    assert files(path.parent) == before
    assert len(anyio.run(contents, path)["chat"]) == 2


@BACKENDS
def test_a_log_that_may_not_be_written(open_database: Path, backend: str) -> None:
    path = database(open_database, "crashed")
    path.with_name("x.db-wal").chmod(0o444)
    before = files(path.parent)

    lines = said(path, backend)

    refused(lines, path)
    assert {name: files(path.parent)[name] for name in before} == before
