"""``asynchistory health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import StoreHealth


@click.command("health", short_help="Say whether the database can be written and read now.")
@common
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say whether the database can be written and read now, and how long that takes.

    The exit code is 1 if it cannot, or if there is no database. A lock of
    another process is waited for, for up to 30 seconds.

    With --json: one object, with ok, url, problem, write_time and read_time
    (seconds), file_bytes and wal_bytes.
    """
    from asynchistory.cli.output import note, one_line, print_json
    from asynchistory.cli.running import existing_history

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    found = _health(history)
    if settings.json:
        print_json({"ok": found.ok, **{name: getattr(found, name) for name in _SHOWN}})
    else:
        _print(found)
    if not found.ok:
        note(f"Error: {one_line(found.problem or '')}")
        ctx.exit(1)


#: Not its statistics: they are of this process, which has done nothing yet.
_SHOWN = ("url", "problem", "write_time", "read_time", "file_bytes", "wal_bytes")


def _health(history: AsyncHistoryManager) -> StoreHealth:
    from asynchistory.cli.running import run
    from asynchistory.errors import StorageError
    from asynchistory.queries import StoreHealth

    try:
        return run(history, lambda opened: opened.health())
    except StorageError as error:  # it could not even be opened
        return StoreHealth(url=history.storage.url, problem=str(error))


def _print(found: StoreHealth) -> None:
    from asynchistory.cli.output import dim, escape, fields

    rows = [
        ("state", "ok" if found.ok else "failed"),
        ("write", _milliseconds(found.write_time)),
        ("read", _milliseconds(found.read_time)),
        ("database", _bytes(found.file_bytes)),
        ("its log", _bytes(found.wal_bytes)),
        ("url", dim(escape(found.url))),
    ]
    fields((name, value) for name, value in rows if value)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _bytes(number: int | None) -> str:
    return "" if number is None else f"{number:,} bytes"
