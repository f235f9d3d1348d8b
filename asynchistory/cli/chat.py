"""``asynchistory chat``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.cli.chatting import Chat
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import Session

#: Where the model's name means nothing.
_MODELS = {"scripted": "scripted"}


@click.command("chat", short_help="Talk to a model; recorded as it goes.")
@click.argument("message", required=False)
@click.option("-m", "--model", metavar="NAME", help="The model's name, as its server knows it.")
@click.option(
    "--provider",
    type=click.Choice(["openai", "anthropic", "scripted"]),
    default="openai",
    show_default=True,
    help="openai and anthropic are all that speak their formats; scripted repeats what you say.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="The server, such as http://localhost:11434/v1; the provider's own if left out.",
)
@click.option("--session", "name", metavar="ID|last", help="Go on with this conversation.")
@click.option("--system", "prompt", metavar="PROMPT", help="The system prompt of a new one.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    metavar="NUMBER",
    help="The server's own if left out.",
)
@click.option("--user", metavar="ID", help="Whose conversation a new one is.")
@common
@click.pass_context
def command(
    ctx: click.Context,
    message: str | None,
    model: str | None,
    provider: str,
    base_url: str | None,
    name: str | None,
    prompt: str | None,
    temperature: float | None,
    user: str | None,
) -> None:
    """Talk to a model; everything is recorded as it goes.

    With a MESSAGE, or one on standard input, there is one answer. On a
    terminal the conversation goes on: Ctrl-C stops an answer, Ctrl-D ends.
    The key of the server is OPENAI_API_KEY or ANTHROPIC_API_KEY of the
    environment.

    With --json: the events as they come, one object a line.
    """
    from asynchistory.cli.chatting import Chat

    settings = ctx.ensure_object(Settings)
    model = model or _MODELS.get(provider)
    if model is None:
        raise click.UsageError("which model? Give its name with --model")
    if name is not None and prompt is not None:
        raise click.UsageError("--system is for a new conversation; --session has its own prompt")
    _check_key(provider, base_url)
    if message is None and not sys.stdin.isatty():
        message = _piped()
    if message is not None and not message.strip():
        raise click.UsageError("there is nothing to say; give a message")
    history, session = _opened(ctx, settings, name, user)
    chat = Chat(
        history,
        {"provider": provider, "model": model, "base_url": base_url, "temperature": temperature},
        session=session,
        user_id=user,
        prompt=prompt,
        db=settings.db,
        json=settings.json,
    )
    ctx.exit(_talk(chat, message))


def _talk(chat: Chat, message: str | None) -> int:
    chat.prepare()
    if message is None:
        return chat.go_on()
    chat.once(message)
    return 0


def _check_key(provider: str, base_url: str | None) -> None:
    from asynchistory import environment

    elsewhere = base_url or environment.base_url(provider)
    if provider != "scripted" and not elsewhere and not environment.api_key(provider):
        raise click.ClickException(
            f"there is no API key; set {provider.upper()}_API_KEY, or name another server with "
            "--base-url"
        )


def _piped() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"standard input is not UTF-8 (byte {error.start + 1}); convert it first"
        ) from None


def _opened(
    ctx: click.Context, settings: Settings, name: str | None, user: str | None
) -> tuple[AsyncHistoryManager, Session | None]:
    """The history, and the session to go on with, if one is named."""
    from asynchistory.cli.running import existing_history, find_session, run
    from asynchistory.config import open_history

    if name is None:
        return open_history(settings.db), None
    history = existing_history(settings)
    if history is None:
        ctx.exit(1)
    session = run(history, lambda opened: find_session(opened, name))
    if user is not None and user != session.user_id:
        raise click.ClickException("that conversation is of another user; leave out --user")
    return history, session
