"""``asynchistory demo``."""

from __future__ import annotations

import os
import tempfile
import time
from importlib.util import find_spec
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
    """See it work: 300 conversations with a model, in some seconds, offline.

    Holds 100 conversations at once on asyncio, 100 on trio and 100 from
    plain threads, each with a tool, streamed over HTTP from a model server on
    this machine; makes a synchronous call inside a running event loop; all
    through one manager into one database, with one LLM instance a model.
    Then kills a writing process and counts whether anything is lost. The
    database is a new one in a temporary folder, unless --db names another.

    With --json: one object with the figures. The exit code is 1 if anything
    was lost, or if a model had more than one LLM instance.
    """
    from asynchistory.cli.output import note, print_json
    from asynchistory.config import open_history

    settings = ctx.ensure_object(Settings)
    if find_spec("uvicorn") is None:
        raise click.ClickException(
            "the demo's model server runs on uvicorn; pip install 'asynchistory[demo]'"
        )
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
    wrong = what_is_wrong(figures)
    for problem in wrong:
        note(click.style(problem, fg="red", bold=True))
    ctx.exit(1 if wrong else 0)


def _run(history: AsyncHistoryManager, path: Path, *, quiet: bool) -> dict[str, Any]:
    from asynchistory.cli.demo_run import CountedHistory, Demo
    from asynchistory.cli.demo_talk import reply_to
    from asynchistory.cli.hints import program, quoted
    from asynchistory.testing import LoopbackLLM
    from asynchistory_compat import HistoryManager

    begin = time.perf_counter()
    counted = CountedHistory(history)
    with HistoryManager(counted) as sync, LoopbackLLM(reply_to) as server:
        demo = Demo(counted, sync, server)
        steps = _Steps(demo, path, quiet=quiet)
        phases = steps.converse()
        in_loop, kill = steps.call_in_loop(), steps.kill()
        counts = sync.count()
        figures = {
            "conversations": counts.sessions,
            "records": counts.records,
            "appends": sum(phase.appends for phase in phases),
            "appends_per_second": _rate(phases),
            "cache_hits": counted.cache.statistics().hits,
            **_model_figures(demo),
            "records_read_in_running_loop": in_loop,
            "acknowledged": kill.acknowledged,
            "lost": kill.lost + demo.lost,
        }
    return {
        **figures,
        "seconds": round(time.perf_counter() - begin, 2),
        "database": str(path),
        "phases": [{**phase._asdict(), "appends_per_second": _rate([phase])} for phase in phases],
        "next": [
            f"{program()} --db {quoted(str(path))} {rest}"
            for rest in ("ls", f"show {demo.session_id('asyncio')}", "stats --by model")
        ],
    }


def _rate(phases: list[Phase]) -> int:
    seconds = sum(phase.seconds for phase in phases)
    return round(sum(phase.appends for phase in phases) / max(seconds, 1e-9))


def _model_figures(demo: Demo) -> dict[str, Any]:
    """What the demo's own conversations took, as the history has it and as others counted it."""
    from decimal import Decimal

    tokens = demo.recorded(demo.sync.get_token_statistics(group_by="session").groups)
    calls = demo.recorded(demo.sync.get_llm_statistics(group_by="session").groups)
    costs: dict[str, Decimal] = {}
    for one in demo.recorded(demo.sync.get_cost_statistics(group_by="session").groups):
        for currency, amounts in one.currencies.items():
            costs[currency] = costs.get(currency, Decimal(0)) + (amounts.total_cost or Decimal(0))
    factory = demo.factory.get_cache_stats()
    heard = demo.heard
    return {
        "answers": sum(map(len, heard.answers.values())),
        "tokens": {
            "input": sum(one.input_tokens for one in tokens),
            "output": sum(one.output_tokens for one in tokens),
        },
        "tokens_streamed": {
            "input": sum(sent for sent, _ in heard.tokens),
            "output": sum(received for _, received in heard.tokens),
        },
        "costs": {currency: f"{costs[currency].normalize():f}" for currency in sorted(costs)},
        "http_requests": demo.server.count,
        "llm_requests": sum(one.requests for one in calls),
        "llm_instances": {
            "keys": len(heard.instances),
            "created": factory.creations,
            "per_key": demo.instances_of_a_key(),
            "models": sorted(key.model for key in heard.instances),
        },
    }


def what_is_wrong(figures: dict[str, Any]) -> list[str]:
    """What is not as it should be, in words."""
    instances = figures["llm_instances"]
    checks = {
        "Something that was acknowledged is lost.": not figures["lost"],
        "The server had another number of requests than is recorded.": (
            figures["http_requests"] == figures["llm_requests"]
        ),
        "Other tokens were streamed than are recorded.": (
            figures["tokens_streamed"] == figures["tokens"]
        ),
        "An LLM instance was created more than once.": (
            instances["per_key"] == 1 and instances["created"] == instances["keys"]
        ),
    }
    return [problem for problem, well in checks.items() if not well]


class _Steps:
    """The demo's steps, each with a line that says how it went as soon as it has."""

    def __init__(self, demo: Demo, path: Path, *, quiet: bool) -> None:
        self._demo = demo
        self._path = path
        self._quiet = quiet
        self._say("One manager, one LLM instance a model, one database, every kind of caller.")
        self._say("Each conversation uses a tool, and is streamed over HTTP from a local server:\n")

    def converse(self) -> list[Phase]:
        return [
            self._held("at once on asyncio", self._demo.in_loop("asyncio")),
            self._held("at once on trio", self._demo.in_loop("trio")),
            self._held("from 10 plain threads", self._demo.in_threads()),
        ]

    def _held(self, how: str, phase: Phase) -> Phase:
        outcome = (
            f"{phase.requests:,} model calls, {phase.appends:,} appends in {phase.seconds:.1f} s"
        )
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

    instances, tokens = figures["llm_instances"], figures["tokens"]
    lost = (
        f"{figures['lost']:,} of {figures['answers']:,} answers "
        f"and {figures['acknowledged']:,} acknowledged appends"
    )
    calls = f"{figures['http_requests']:,} over HTTP, {figures['llm_requests']:,} recorded"
    created = (
        f"{instances['per_key']} per key: {instances['created']} created for "
        f"{instances['keys']} models"
    )
    cost = " + ".join(f"{amount} {currency}" for currency, amount in figures["costs"].items())
    rate = f"{figures['appends_per_second']:,}"
    click.echo()
    fields(
        [
            ("conversations", f"{figures['conversations']:,}"),
            ("records", f"{figures['records']:,}"),
            ("appends", f"{figures['appends']:,}, {rate} a second beside the model calls"),
            ("cache hits", f"{figures['cache_hits']:,}"),
            ("model calls", calls),
            ("LLM instances", created),
            ("tokens", f"{tokens['input']:,} in · {tokens['output']:,} out"),
            ("cost", f"{cost} (made-up prices)"),
            ("lost", lost if not figures["lost"] else click.style(lost, fg="red", bold=True)),
            ("time", f"{figures['seconds']} s"),
            ("database", escape(figures["database"])),
        ]
    )
    click.echo("\nTry next:\n")
    for line in figures["next"]:
        click.echo(f"  {escape(line)}")
