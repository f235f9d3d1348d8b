"""``asynchistory copy``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager


class _Copied(NamedTuple):
    sessions: int
    records: int
    skipped: int
    damaged: int
    differing: list[str]
    problems: list[str]


@click.command("copy", short_help="Copy a whole database into another one, of any kind.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@common
@click.pass_context
def command(ctx: click.Context, source: str, target: str) -> None:
    """Copy every conversation of SRC to DST, with all that belongs to it, and check the copy.

    SRC and DST are files or URLs: sqlite:///history.db, postgresql://user@host/name.
    Conversations are copied one by one, each as a whole. Interrupted, it can be
    run again: what is there already is compared, and not copied twice. Nobody
    should write to SRC meanwhile, since a conversation that is there and has other
    records is an error.

    At the end DST is verified, and each conversation compared with its original;
    the exit code is 1 if anything is amiss.

    With --json: one object, with source, target, ok, sessions, records,
    already_there, damaged, differing and problems.
    """
    from asynchistory.cli.output import count, dim, escape, fields, note, print_json
    from asynchistory.cli.running import existing_history, run
    from asynchistory.config import open_history

    settings = ctx.ensure_object(Settings)
    settings.db = source
    origin = existing_history(settings)
    if origin is None:
        ctx.exit(1)
    destination = open_history(target)
    if destination.storage is origin.storage:
        raise click.UsageError("SRC and DST are the same database")

    async def both(opened: AsyncHistoryManager) -> _Copied:
        async with destination:
            return await _copy(opened, destination)

    copied = run(origin, both)
    ok = not (copied.damaged or copied.differing or copied.problems)
    if settings.json:
        print_json(
            {
                "source": origin.storage.url,
                "target": destination.storage.url,
                "ok": ok,
                "sessions": copied.sessions,
                "records": copied.records,
                "already_there": copied.skipped,
                "damaged": copied.damaged,
                "differing": copied.differing,
                "problems": copied.problems,
            }
        )
    else:
        for name in copied.differing:
            note(f"differs: {escape(name)}")
        for problem in copied.problems:
            note(f"problem: {escape(problem)}")
        if copied.damaged:
            note(f"{count(copied.damaged, 'record')} damaged in the source, and not in the copy")
        fields(
            [
                ("copied", count(copied.sessions, "conversation")),
                ("records", f"{copied.records:,}"),
                ("there already", f"{copied.skipped:,}"),
                ("checked", "the copy is whole" if ok else "the copy is not whole"),
                ("database", dim(escape(destination.storage.url))),
            ]
        )
    ctx.exit(0 if ok else 1)


async def _copy(source: AsyncHistoryManager, target: AsyncHistoryManager) -> _Copied:
    import sys

    from asynchistory.cli.output import note

    total = (await source.count()).sessions
    shown = sys.stderr.isatty()
    with click.progressbar(
        length=2 * total, label="copying", file=sys.stderr, hidden=not shown
    ) as bar:
        async with source.export() as lines:
            imported = await target.import_(_counted(lines, bar))
        bar.label = "checking"
        found = await target.verify()
        differing = await _differing(source, target, bar)
    if not shown:
        note(f"copied {imported.sessions}, compared {total}")
    problems = [*found.problems]
    problems += [f"damaged: record {item.seq} of {item.session_id}" for item in found.damaged]
    return _Copied(
        imported.sessions,
        imported.records,
        imported.skipped,
        lines.damaged,
        differing,
        problems,
    )


async def _counted(lines: AsyncIterator[bytes], bar: Any) -> AsyncIterator[bytes]:
    async for line in lines:
        yield line
        bar.update(1)


async def _differing(
    source: AsyncHistoryManager, target: AsyncHistoryManager, bar: Any
) -> list[str]:
    """The conversations that the copy lacks, or has otherwise."""
    from asynchistory.errors import SessionNotFoundError

    differing: list[str] = []
    async with source.export() as lines:
        async for line in lines:
            name, wanted = _content(line)
            try:
                async with target.export(name) as copies:
                    same = [_content(copy)[1] async for copy in copies] == [wanted]
            except SessionNotFoundError:
                same = False
            if not same:
                differing.append(name)
            bar.update(1)
    return differing


def _content(line: bytes) -> tuple[str, bytes]:
    """The id of a line's session, and what has to be the same in a copy: all but the epochs.

    A store draws its own, in the same order.
    """
    import msgspec

    value = msgspec.json.decode(line)
    session, keys = value["session"], value.get("keys", ())
    ranks = sorted({item["epoch"] for item in (session, *keys)})
    for item in (session, *keys):
        item["epoch"] = ranks.index(item["epoch"])
    return session["id"], msgspec.json.encode(value, order="deterministic")
