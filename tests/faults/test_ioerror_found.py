"""What the campaign ``ioerror`` found, each as small as it gets."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
import pytest

from asynchistory import (
    AsyncHistoryManager,
    OutcomeUnknownError,
    SQLiteStorage,
    StorageError,
    StorageUnavailableError,
)
from tests.faults import failing
from tests.faults.batches import append, contents
from tests.faults.children import Child, say
from tests.faults.ioerror import copy_files

LOOPS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def said(function: str, *arguments: object) -> list[str]:
    """What a function of this module says in a process of its own, whose file access may fail."""
    child = Child(f"tests.faults.test_ioerror_found:{function}", *arguments)
    code, complaints = child.end()
    assert (code, complaints) == (0, "")
    return child.lines


# -- the sync of a commit


def fail_a_sync(folder: str, backend: str) -> None:
    """An append whose sync fails: what it raised, and what a kill would have left of it."""
    switch = failing.install("xSync:IOERR_FSYNC")
    path = Path(folder) / "x.db"

    async def work() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            await append(history, "chat", "before", 1)
            switch.set(1, stays=False)
            switch.start()
            try:
                await append(history, "chat", "failed", 1)
            except StorageError as error:
                copy_files(path, path.with_name("killed"))
                say(type(error).__name__)
            stored = await contents(path.with_name("killed") / path.name)
            say(" ".join(piece.batch for piece in stored["chat"]))

    anyio.run(work, backend=backend)


@LOOPS
def test_a_commit_whose_sync_failed_is_not_said_to_be_undone(tmp_path: Path, backend: str) -> None:
    """Its frames are in the log, whole: a process that is killed now will find them there."""
    error, stored = said("fail_a_sync", tmp_path, backend)

    assert error == OutcomeUnknownError.__name__ or "failed" not in stored


# -- a connection whose set-up failed


@pytest.fixture
def refused_pragma() -> Iterator[None]:
    """Every connection is refused one of the settings that all of ours have."""

    def deny(operation: int, name: str | None, *_: object) -> int:
        denied = operation == apsw.SQLITE_PRAGMA and name == "cell_size_check"
        return apsw.SQLITE_DENY if denied else apsw.SQLITE_OK

    def hook(connection: apsw.Connection) -> None:
        connection.authorizer = deny

    apsw.connection_hooks.append(hook)
    yield
    apsw.connection_hooks.remove(hook)


@pytest.mark.anyio
@pytest.mark.usefixtures("refused_pragma")
async def test_a_connection_that_cannot_be_set_up_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.db"

    with pytest.raises(StorageUnavailableError) as caught:
        async with AsyncHistoryManager(SQLiteStorage(path)):
            pytest.fail("it was opened")

    # The error, which its catcher may keep, must not keep the connection.
    assert str(path) in str(caught.value)
    assert [one.filename for one in apsw.connections() if one.filename == str(path)] == []


def replace_after_a_failed_open(folder: str, backend: str, call: str) -> None:
    """Fail to open a file, put another in its place, and let the collector do its work."""
    switch = failing.install("xFileSize:IOERR_FSTAT")
    path = Path(folder) / "old" / "x.db"

    async def fail() -> StorageError | None:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            await append(history, "chat", "old", 1)
            copy_files(path, path.parent / "left")
        copy_files(path.parent / "left" / path.name, path.parent)
        switch.set(int(call), stays=False)
        switch.start()
        try:
            await SQLiteStorage(path).open()
        except StorageError as error:
            return error
        return None

    async def go_on() -> None:
        async with AsyncHistoryManager(SQLiteStorage(path)) as history:
            await append(history, "chat", "new", 1)
            before = sorted(os.listdir(path.parent))
            errors.clear()
            gc.collect()
            after = sorted(os.listdir(path.parent))
            say(f"{before == after}")
            copy_files(path, path.parent / "killed")
            stored = await contents(path.parent / "killed" / path.name)
            say(" ".join(piece.batch for piece in stored.get("chat", ())))

    path.parent.mkdir()
    errors = [anyio.run(fail, backend=backend)]
    say(type(errors[0]).__name__)
    shutil.rmtree(path.parent)
    anyio.run(go_on, backend=backend)


@LOOPS
@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_a_failed_open_left_does_not_take_the_log_of_a_new_file(
    tmp_path: Path, backend: str, call: int
) -> None:
    """SQLite closes a connection that has read nothing as if its file were still in its place."""
    error, same, stored = said("replace_after_a_failed_open", tmp_path, backend, call)

    assert error == "StorageUnavailableError"
    assert same == "True", "the new file's log was deleted"
    assert stored == "new", "an append that returned is lost"
