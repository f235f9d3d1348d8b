"""A database of ours that may not be written: refused by type, and left as it is.

Run as an unprivileged user, whom the modes of files hold even where the tests run as root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from asynchistory import AsyncHistoryManager, SQLiteStorage, StorageUnavailableError
from tests.faults.batches import CANARY, append, contents
from tests.faults.children import Child, say
from tests.faults.report import LOOPS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")

BACKENDS = pytest.mark.parametrize("backend", LOOPS)
NOBODY = 65534


def use_as_nobody(path: str, backend: str) -> None:
    """Open and append, and say what comes of it."""
    # Loaded while this user may still read it.
    anyio.run(anyio.sleep, 0, backend=backend)
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)

    async def use() -> None:
        try:
            async with AsyncHistoryManager(SQLiteStorage(path)) as history:
                say("open")
                say(f"{(await append(history, 'chat', 'new', 1)).first_seq}")
        except StorageUnavailableError as error:
            say(str(error))

    anyio.run(use, backend=backend)


def said(path: Path, backend: str) -> list[str]:
    child = Child("tests.faults.test_read_only:use_as_nobody", path, backend)
    assert child.end() == (0, "")
    return child.lines


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def refused(lines: list[str], path: Path) -> None:
    [line] = [line for line in lines if line != "open"]
    assert str(path) in line
    assert "check that the file and its folder can be read and written" in line
    assert CANARY not in line


def database(path: Path, left: str) -> Path:
    """The one that was closed, or what a process left that was killed."""
    return path if left == "closed" else path.parent / left / path.name


@BACKENDS
def test_a_file_that_may_be_written_is(open_database: Path, backend: str) -> None:
    assert said(open_database, backend) == ["open", "3"]


@BACKENDS
@pytest.mark.parametrize("left", ["closed", "crashed"])
def test_a_writable_file_in_a_read_only_folder(
    open_database: Path, backend: str, left: str
) -> None:
    """There is no room for its write-ahead log and what belongs to that."""
    path = database(open_database, left)
    path.parent.chmod(0o555)
    before = files(path.parent)

    refused(said(path, backend), path)

    path.parent.chmod(0o777)
    assert files(path.parent) == before
    assert len(anyio.run(contents, path)["chat"]) == 2
