"""Make the n-th call of a kind fail, beneath the store: a child process's side of ``ioerror``.

Two layers. Above SQLite's own file access, a VFS whose methods raise (``xSync:IOERR_FSYNC``). And
below it, the system calls that it makes, which return -1 and an errno (``pwrite64:ENOSPC``); these
reach the shared memory of the write-ahead log, too. In the upper layer the fault is a Python
exception, which apsw raises at the end of a statement even where SQLite has passed over it, as it
does in a checkpoint that follows a commit. So what happens there is left to the lower layer, and
hints that SQLite asks for without a need of the answer (xFileControl) do not fail at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import apsw

#: What may fail, and how. Not xUnlock: the lock would stay, and no store could ever take it again.
METHODS = {
    "xOpen": ("CANTOPEN", "IOERR"),
    "xRead": ("IOERR_READ", "IOERR_SHORT_READ"),
    "xWrite": ("IOERR_WRITE", "FULL"),
    "xSync": ("IOERR_FSYNC",),
    "xTruncate": ("IOERR_TRUNCATE",),
    "xFileSize": ("IOERR_FSTAT",),
    "xLock": ("IOERR_LOCK", "BUSY"),
    "xCheckReservedLock": ("IOERR_CHECKRESERVEDLOCK",),
    "xAccess": ("IOERR_ACCESS",),
    "xDelete": ("IOERR_DELETE",),
    "xFullPathname": ("CANTOPEN",),
}
_INT, _SIZE, _POINTER, _TEXT = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
_LONG = ctypes.c_ssize_t
#: The errnos, and the types of result and arguments.
SYSTEM_CALLS: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "pread64": (("EIO",), (_LONG, _INT, _POINTER, _SIZE, ctypes.c_int64)),
    "pwrite64": (("EIO", "ENOSPC", "EFBIG"), (_LONG, _INT, _POINTER, _SIZE, ctypes.c_int64)),
    "ftruncate": (("EIO",), (_INT, _INT, ctypes.c_int64)),
    "fstat": (("EIO",), (_INT, _INT, _POINTER)),
    "mmap": (
        ("ENOMEM",),
        (_POINTER, _POINTER, _SIZE, _INT, _INT, _INT, ctypes.c_int64),
    ),
    "unlink": (("EACCES",), (_INT, _TEXT)),
    "openDirectory": (("EMFILE",), (_INT, _TEXT, _POINTER)),
}
KINDS = [
    *(f"{name}:{error}" for name, errors in METHODS.items() for error in errors),
    *(f"{name}:{error}" for name, (errors, _) in SYSTEM_CALLS.items() for error in errors),
]


class Switch:
    """Which call is to fail. It is off until it is started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = self._calls = 0
        self._on = self._stays = False
        self.failed = 0

    def set(self, number: int, *, stays: bool) -> None:
        """Choose the number of the call to fail; if it stays, all after it fail, too."""
        with self._lock:
            self._number, self._stays = number, stays
            self._calls = self.failed = 0

    def start(self) -> None:
        """Count from now on."""
        with self._lock:
            self._on = True

    def off(self) -> None:
        with self._lock:
            self._on = False

    def fails(self) -> bool:
        """Whether the call that is now made is to fail."""
        with self._lock:
            self._calls += self._on
            due = self._calls >= self._number if self._stays else self._calls == self._number
            self.failed += self._on and due
            return self._on and due


def install(kind: str) -> Switch:
    """Make SQLite's file access in this process one that can fail in this way."""
    switch = Switch()
    name, _, error = kind.partition(":")
    if name in METHODS:
        _install_vfs(name, getattr(apsw, f"SQLITE_{error}"), switch)
    else:
        _install_call(name, getattr(errno, error), switch)
    return switch


_kept: list[Any] = []  # SQLite holds but the addresses of these


def _install_vfs(method: str, code: int, switch: Switch) -> None:
    base = apsw.vfs_names()[0]

    def failing(parent: type) -> Callable[..., Any]:
        original = getattr(parent, method)

        def call(self: Any, *arguments: Any) -> Any:
            if switch.fails():
                raise apsw.exception_for(code)
            return original(self, *arguments)

        return call

    in_file = hasattr(apsw.VFSFile, method)
    changed = {method: failing(apsw.VFSFile if in_file else apsw.VFS)}
    file_type: Any = type("FailingFile", (apsw.VFSFile,), changed if in_file else {})

    class FailingVFS(apsw.VFS):
        def xOpen(self, name: Any, flags: list[int]) -> Any:
            if method == "xOpen" and switch.fails():
                raise apsw.exception_for(code)
            return file_type(base, name, flags)

    vfs_type: Any = FailingVFS
    if not in_file and method != "xOpen":
        vfs_type = type("FailingVFS", (FailingVFS,), changed)
    _kept.append(vfs_type("failing", base, makedefault=True))
    # See the module's docstring.
    apsw.connection_hooks.append(lambda connection: connection.wal_autocheckpoint(0))


def _install_call(name: str, number: int, switch: Switch) -> None:
    result, *arguments = SYSTEM_CALLS[name][1]
    prototype = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
    vfs = apsw.VFS(f"{name}-access", apsw.vfs_names()[0])
    address = vfs.xGetSystemCall(name)
    assert address, f"this SQLite does not call {name}"
    original = prototype(address)

    def call(*values: Any) -> Any:
        if switch.fails():
            ctypes.set_errno(number)
            return ctypes.c_void_p(-1).value if name == "mmap" else -1
        return original(*values)

    callback = prototype(call)
    pointer = ctypes.cast(callback, ctypes.c_void_p).value
    assert pointer
    assert vfs.xSetSystemCall(name, pointer)
    _kept.extend((vfs, callback))
    # Often enough that a checkpoint follows nearly every commit.
    apsw.connection_hooks.append(lambda connection: connection.wal_autocheckpoint(4))


def available(kind: str) -> bool:
    """Whether this platform has it. System calls are told apart by name, and these are Linux's."""
    return kind.partition(":")[0] in METHODS or os.uname().sysname == "Linux"
