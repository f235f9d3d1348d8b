"""What every command takes, before its name or after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Settings:
    """The options that all commands share.

    Attributes:
        db: a path or URL; None for the environment's, or the default.
        json: whether results are JSON.
    """

    def __init__(self) -> None:
        self.db: str | None = None
        self.json = False


def _set_db(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    settings = ctx.ensure_object(Settings)
    if value is not None:
        settings.db = value


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    settings = ctx.ensure_object(Settings)
    settings.json = settings.json or value


def common(function: F) -> F:
    """Add ``--db`` and ``--json`` to a command."""
    function = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Print JSON: one object, or for lists one object a line.",
    )(function)
    return click.option(
        "--db",
        metavar="PATH_OR_URL",
        expose_value=False,
        callback=_set_db,
        help="The database: a file or a URL such as sqlite:///history.db.",
    )(function)
