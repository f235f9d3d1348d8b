"""What the campaign ``powercut`` found in the creation of a file, each as small as it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asynchistory import AsyncHistoryManager, Message, SQLiteStorage
from tests.faults.children import environment

HELLO = Message.of("user", "hello")


def hot_journal(path: Path) -> None:
    """What SQLite leaves in the folder while it writes the first page of a new file."""
    script = f"""
import os, apsw
db = apsw.Connection({str(path)!r})
class Cut(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__(base, name, flags)
        self.flags = flags[0]
    def xWrite(self, data, offset):
        if self.flags & apsw.SQLITE_OPEN_MAIN_DB:
            os._exit(0)
        super().xWrite(data, offset)
class VFS(apsw.VFS):
    def xOpen(self, name, flags):
        return Cut(name, flags)
base = apsw.vfs_names()[0]
vfs = VFS("cut", base)
apsw.Connection({str(path)!r}, vfs="cut").execute("PRAGMA application_id=0x41484953")
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True, timeout=60)
    assert path.with_name(f"{path.name}-journal").stat().st_size >= 512


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1536, 4096])
async def test_a_first_page_that_a_power_cut_left_as_zeros_is_rolled_back(
    tmp_path: Path, size: int
) -> None:
    """A file system may grow the file before it writes the bytes; the journal takes it back."""
    path = tmp_path / "x.db"
    path.touch()
    hot_journal(path)
    path.write_bytes(bytes(size))

    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        assert (await history.append("chat", HELLO)).first_seq == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sync of a folder")
@pytest.mark.anyio
async def test_the_folder_of_a_new_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is durable in a folder which is not is gone after a power cut, with all in it."""
    synced: set[Path] = set()
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        synced.update(path for path in folders if path.exists() and path.stat().st_ino == inode)
        fsync(descriptor)

    folders = [tmp_path, tmp_path / "new", tmp_path / "new/folder"]
    monkeypatch.setattr(os, "fsync", watch)
    async with AsyncHistoryManager(SQLiteStorage(tmp_path / "new/folder/x.db")) as history:
        await history.append("chat", HELLO)

    assert synced == set(folders)
