"""The one place that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path


class Secret(str):
    """A text that stays out of every repr, and so out of tracebacks that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def history_url() -> str:
    """``ASYNCHISTORY_URL``, or the path of ``history.db`` in the user's data folder."""
    if url := os.environ.get("ASYNCHISTORY_URL"):
        return url
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_DATA_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "share"
    return str(folder / "asynchistory" / "history.db")


def cache_url() -> str:
    """``ASYNCHISTORY_CACHE``, or the cache in memory."""
    return os.environ.get("ASYNCHISTORY_CACHE") or "memory://"


def api_key(provider: str) -> str | None:
    """The provider's key, from the variable that its own client reads: ``OPENAI_API_KEY``."""
    key = os.environ.get(f"{provider.upper().replace('-', '_')}_API_KEY")
    return None if key is None else Secret(key)


def base_url(provider: str) -> str | None:
    """The provider's endpoint, from the variable that its own client reads: ``OPENAI_BASE_URL``."""
    return os.environ.get(f"{provider.upper().replace('-', '_')}_BASE_URL")


def proxies() -> dict[str, str]:
    """``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` by their first words.

    Where the system keeps such settings elsewhere, those. They may hold passwords.
    """
    from urllib.request import getproxies

    return {name: Secret(value) for name, value in getproxies().items()}
