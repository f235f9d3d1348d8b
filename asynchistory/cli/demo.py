"""``asynchistory demo``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from pathlib import Path

    from asynchistory.cli.demo_run import Demo, Kill, Phase
    from asynchistory.manager import AsyncHistoryManager


@click.command("demo", short_help="See it work, offline, in some seconds.")
@common
@click.pass_context
def command(ctx: click.Context) -> None:
    """See it work: 300 conversations from every kind of caller, in some seconds, offline.

    Writes 100 conversations at once on asyncio, 100 on trio and 100 from
    plain threads, and makes a synchronous call inside a running event loop,
    all through one manager object into one database; then kills a writing
    process and counts whether anything that was acknowledged is lost. The
    database is a new one in a temporary folder, unless --db names another.

    With --json: one object with the figures. The exit code is 1 if anything
    was lost.
    """
    from asynchistory.cli.output import print_json
    from asynchistory.config import open_history

    settings = ctx.ensure_object(Settings)
    db = settings.db
    if db is None:
        db = os.path.join(tempfile.mkdtemp(prefix="asynchistory-demo-"), "history.db")
    history = open_history(db)
    path = getattr(history.storage, "path", None)
    if path is None:
        raise click.ClickException("the demo needs a database file, since two processes open it")
    figures = _run(history, path, quiet=settings.json)
    if settings.json:
        print_json(figures)
    else:
        _print_figures(figures)
    ctx.exit(1 if figures["lost"] else 0)


def _run(history: AsyncHistoryManager, path: Path, *, quiet: bool) -> dict[str, Any]:
    from asynchistory.cli.demo_run import Demo
    from asynchistory_compat import HistoryManager

    begin = time.perf_counter()
    with HistoryManager(history) as sync:
        demo = Demo(history, sync)
        steps = _Steps(demo, path, quiet=quiet)
        phases = steps.write()
        in_loop, kill = steps.call_in_loop(), steps.kill()
        counts = sync.count()
        hits = history.cache.statistics().hits
    appends = sum(phase.appends for phase in phases)
    return {
        "conversations": counts.sessions,
        "records": counts.records,
        "appends": appends,
        "appends_per_second": round(appends / sum(phase.seconds for phase in phases)),
        "cache_hits": hits,
        "records_read_in_running_loop": in_loop,
        "acknowledged": kill.acknowledged,
        "lost": kill.lost,
        "seconds": round(time.perf_counter() - begin, 2),
        "database": str(path),
        "phases": [
            {**phase._asdict(), "appends_per_second": round(phase.rate)} for phase in phases
        ],
        "next": [
            f"{_program()} --db {_quoted(str(path))} {rest}"
            for rest in ("ls", f"show {demo.session_id('asyncio')}", "stats --by model")
        ],
    }


class _Steps:
    """The demo's steps, each with a line that says how it went as soon as it has."""

    def __init__(self, demo: Demo, path: Path, *, quiet: bool) -> None:
        self._demo = demo
        self._path = path
        self._quiet = quiet
        self._say("One manager object, one database, every kind of caller:\n")

    def write(self) -> list[Phase]:
        return [
            self._wrote("at once on asyncio", self._demo.in_loop("asyncio")),
            self._wrote("at once on trio", self._demo.in_loop("trio")),
            self._wrote("from 10 plain threads", self._demo.in_threads()),
        ]

    def _wrote(self, how: str, phase: Phase) -> Phase:
        outcome = f"{phase.appends:,} appends, {phase.rate:,.0f} a second"
        self._line(f"{phase.conversations} conversations {how}", outcome)
        return phase

    def call_in_loop(self) -> int:
        records = self._demo.inside_a_loop()
        self._line("a sync call inside a running event loop", f"{records} records read")
        return records

    def kill(self) -> Kill:
        kill = self._demo.kill_a_writer(self._path)
        kept = f"{kill.acknowledged:,} appends acknowledged, {kill.lost:,} lost"
        self._line("a writing process, killed (SIGKILL)", kept)
        return kill

    def _line(self, what: str, outcome: str) -> None:
        self._say(f"  {what:<42}{outcome}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text)


def _print_figures(figures: dict[str, Any]) -> None:
    from asynchistory.cli.output import escape, fields

    lost = f"{figures['lost']:,} of {figures['acknowledged']:,} acknowledged"
    click.echo()
    fields(
        [
            ("conversations", f"{figures['conversations']:,}"),
            ("records", f"{figures['records']:,}"),
            ("appends", f"{figures['appends']:,}, {figures['appends_per_second']:,} a second"),
            ("cache hits", f"{figures['cache_hits']:,}"),
            ("lost", lost if not figures["lost"] else click.style(lost, fg="red", bold=True)),
            ("time", f"{figures['seconds']} s"),
            ("database", escape(figures["database"])),
        ]
    )
    click.echo("\nTry next:\n")
    for line in figures["next"]:
        click.echo(f"  {escape(line)}")


def _program() -> str:
    """How the user can call this command again."""
    called, known = os.path.abspath(sys.argv[0]), shutil.which("asynchistory")
    if known is not None and (os.path.basename(called) != "asynchistory" or _same(called, known)):
        return "asynchistory"
    if os.path.basename(called) == "asynchistory":
        return _quoted(os.path.relpath(called))
    return f"{_quoted(sys.executable)} -m asynchistory.cli"


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _quoted(text: str) -> str:
    import shlex
    import subprocess

    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)
