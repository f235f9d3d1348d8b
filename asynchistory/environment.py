"""The one place that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path


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
    return os.environ.get(f"{provider.upper().replace('-', '_')}_API_KEY")


def base_url(provider: str) -> str | None:
    """The provider's endpoint, from the variable that its own client reads: ``OPENAI_BASE_URL``."""
    return os.environ.get(f"{provider.upper().replace('-', '_')}_BASE_URL")
