"""The group of all commands. Each is loaded when it is called, or when help lists them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from asynchistory._version import __version__
from asynchistory.cli.options import common
from asynchistory.errors import AsyncHistoryError

#: Command to module, in the order in which the help lists them.
COMMANDS = {
    "demo": "demo",
    "chat": "chat",
    "import": "importing",
    "ls": "listing",
    "show": "showing",
    "search": "searching",
    "stats": "stats",
    "fork": "forking",
    "export": "exporting",
    "backup": "backing_up",
    "copy": "copying",
    "verify": "verifying",
    "rm": "removing",
    "prune": "pruning",
    "erase": "erasing",
    "health": "health",
}
INTERRUPTED = 130
#: What a shell reports of a program that SIGPIPE ended, as it ends most under ``| head``.
PIPE_CLOSED = 141


class App(click.Group):
    """Loads commands late, and turns what ends them into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name, loaded now."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"asynchistory.cli.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; every way in which it can end badly ends in an exit code here."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except AsyncHistoryError as error:
            from asynchistory.cli.output import escape

            raise click.ClickException(escape(str(error))) from None
        except BrokenPipeError:
            _silence_stdout()
            ctx.exit(PIPE_CLOSED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except click.Abort as abort:  # a prompt was not answered: Ctrl-C, or the end of input
            ctx.exit(INTERRUPTED if isinstance(abort.__context__, KeyboardInterrupt) else 1)


def _silence_stdout() -> None:
    # Python flushes once more when it exits, and would complain.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@click.group(
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Results go to standard output, messages to standard error. "
    "Exit codes: 0, 1 (failed or not found), 2 (wrong usage).",
)
@common
@click.version_option(__version__, message="asynchistory %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Durable conversation history: chat, import, read, search, count, export.

    The database is --db, or ASYNCHISTORY_URL, or a file in your data folder.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False
