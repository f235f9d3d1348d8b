"""Commands to try next, written so that they work in the shell that they are pasted into."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys


def program() -> str:
    """How the user can call this command again."""
    called, known = os.path.abspath(sys.argv[0]), shutil.which("asynchistory")
    if known is not None and (os.path.basename(called) != "asynchistory" or _same(called, known)):
        return "asynchistory"
    if os.path.basename(called) == "asynchistory":
        return quoted(os.path.relpath(called))
    return f"{quoted(sys.executable)} -m asynchistory.cli"


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def quoted(text: str) -> str:
    """The text as one word of a command line."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)
