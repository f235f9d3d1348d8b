"""Record what a process asks of the file system, in order: a child process's side of a campaign.

SQLite's calls are seen by a VFS, which is the default one from :meth:`Recorder.start` on, so that
the library under test is not touched. What Python itself does to files (a new file, a new folder,
the sync of a folder) is seen by an audit hook and a wrapper around ``os.fsync``. SQLite syncs the
folder of a new journal or write-ahead log by itself, below its VFS; the system call that it opens
the folder with is watched for that.

An event is a list: its name, then its arguments. Names of files and folders are relative.

    ["mkdir", name]  ["open", handle, name]  ["delete", name]  ["folder", name]
    ["write", handle, offset, data]  ["truncate", handle, size]  ["sync", handle]

``folder`` is the sync of a folder. The shared memory of a write-ahead log is not recorded: it is
not durable, and is made anew by the first connection.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path
from typing import Any

import apsw

Event = list[Any]
_OPEN_FOLDER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        self.log = recorder.log
        super().__init__(recorder.base, name, flags)
        self.handle = recorder.opened(name.filename() if hasattr(name, "filename") else name)

    # Written down before it is done, so that a sync covers what was asked before it.

    def xWrite(self, data: Any, offset: int) -> None:
        self.log.append(["write", self.handle, offset, bytes(data)])
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self.log.append(["truncate", self.handle, size])
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self.log.append(["sync", self.handle])
        super().xSync(flags)


class Recorder(apsw.VFS):
    """Everything below one folder that is to survive a power cut, since :meth:`start`."""

    def __init__(self) -> None:
        self.base = apsw.vfs_names()[0]
        self.root = ""
        self.log: list[Event] = []
        self._handles = 0
        super().__init__("recorder", self.base, makedefault=True)
        self._watch_folders()
        self._fsync = os.fsync
        os.fsync = self._on_fsync
        sys.addaudithook(self._on_audit)

    def start(self, root: Path) -> None:
        self.root = os.path.join(os.path.realpath(root), "")
        self.log.clear()

    def opened(self, path: str | None) -> int:
        self._handles += 1
        if (name := self._relative(path)) is not None:
            self.log.append(["open", self._handles, name])
        return self._handles

    def _relative(self, path: object) -> str | None:
        text = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes)) else ""
        inside = self.root and text.startswith(self.root)
        return text.removeprefix(self.root) if inside else None

    # -- what SQLite does

    def xOpen(self, name: Any, flags: list[int]) -> _File:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        if (name := self._relative(filename)) is not None:
            self.log.append(["delete", name])

    def _watch_folders(self) -> None:
        # Asked of the VFS itself and not assumed: which syncs reach the folder, too.
        address = self.xGetSystemCall("openDirectory")
        assert address, "this SQLite has no openDirectory to watch"
        original = _OPEN_FOLDER(address)

        def open_folder(path: bytes, descriptor: Any) -> int:
            result: int = original(path, descriptor)
            self._folder(os.path.dirname(path))
            return result

        self._callback = _OPEN_FOLDER(open_folder)  # kept: SQLite holds but its address
        pointer = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert pointer
        assert self.xSetSystemCall("openDirectory", pointer)

    # -- what Python does

    def _on_fsync(self, descriptor: Any) -> None:
        self._fsync(descriptor)
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if stat.S_ISDIR(os.fstat(number).st_mode):
            self._folder(os.readlink(f"/proc/self/fd/{number}"))

    def _folder(self, path: str | bytes) -> None:
        real = os.path.join(os.path.realpath(os.fsdecode(path)), "")
        if self.root and real.startswith(self.root):
            self.log.append(["folder", real.removeprefix(self.root).rstrip("/")])

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & os.O_CREAT:
            path = arguments[0]
            if (name := self._relative(path)) is not None and not os.path.exists(path):
                self._handles += 1
                self.log.append(["open", self._handles, name])
        elif event == "os.mkdir":
            path = arguments[0]
            if (name := self._relative(path)) is not None and not os.path.exists(path):
                self.log.append(["mkdir", name])
