"""``asynchistory backup``."""

from __future__ import annotations

import click

from asynchistory.cli.options import Settings, common


@click.command("backup", short_help="Copy the database to a file, while it is in use.")
@click.argument("dest", metavar="DEST", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Put it in the place of a file that is there.")
@common
@click.pass_context
def command(ctx: click.Context, dest: str, overwrite: bool) -> None:
    """Copy the database to the file DEST, as of one moment, while it is in use.

    The copy is a database like any other. DEST appears once it is on disk as a
    whole; its folder must exist.

    With --json: one object, with path, bytes and database.
    """
    from asynchistory.cli.output import dim, escape, fields, print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    path = run(history, lambda opened: opened.backup(dest, overwrite=overwrite))
    size, database = path.stat().st_size, history.storage.url
    if settings.json:
        print_json({"path": str(path), "bytes": size, "database": database})
    else:
        fields(
            [
                ("copied to", escape(str(path))),
                ("bytes", f"{size:,}"),
                ("database", dim(escape(database))),
            ]
        )
