"""The ``asynchistory`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit: 0, 1 (failed or not found), 2 (usage), 130 (Ctrl-C)."""
    if sys.argv[1:] == ["--version"]:
        # Scripts and shells ask this often, and click alone takes three times as long as Python.
        from asynchistory._version import __version__

        print(f"asynchistory {__version__}")
        return
    try:
        from asynchistory.cli.app import app
        from asynchistory.cli.output import lenient_streams

        lenient_streams()
        app(prog_name="asynchistory")
    except KeyboardInterrupt:
        sys.exit(130)
