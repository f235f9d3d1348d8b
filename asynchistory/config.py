"""URLs to objects."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Literal, TypeAlias

from asynchistory.cache.tail import Level, TailCache
from asynchistory.cache.wiring import cache_of
from asynchistory.environment import cache_url, history_url
from asynchistory.errors import ConfigurationError
from asynchistory.manager import AsyncHistoryManager
from asynchistory.storage.port import Storage

#: What a commit promises; see :class:`asynchistory.storage.sqlite.SQLiteStorage`.
Durability: TypeAlias = Literal["full", "relaxed"]

_lock = threading.Lock()
_files: weakref.WeakValueDictionary[str, Storage] = weakref.WeakValueDictionary()
_named: dict[str, Storage] = {}  # a named memory store lives as long as the process


def open_history(
    url: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "full",
    level: Level = "validated",
    cache: str | TailCache | None = None,
) -> AsyncHistoryManager:
    """A manager over the store at ``url``, to be entered with ``async with``.

    Args:
        url: a file's path or ``sqlite:///PATH``; ``postgresql://...`` (see
            :class:`asynchistory.PostgresStorage`); ``memory://`` for a store of
            one's own, ``memory://NAME`` for one shared in this process. None is
            the environment's ``ASYNCHISTORY_URL``, or a file in the user's data folder.
        durability: ``full`` survives a power cut; ``relaxed`` is faster and may
            lose the last writes to one.
        level: how current reads are: ``validated``, ``cached`` or ``fresh``.
        cache: where the newest records of each session are kept: ``memory://``;
            ``redis://[USER:PASSWORD@]HOST[:PORT][/DB]`` or ``rediss://...`` for Redis behind
            that; ``none``; or a cache of one's own. None is the environment's
            ``ASYNCHISTORY_CACHE``, or ``memory://``.

    Raises:
        ConfigurationError: a URL is of no known kind, or the store is open with another
            durability or cache.
    """
    storage = open_storage(url, durability=durability)
    if not isinstance(cache, TailCache):
        cache = cache_of(storage, cache_url() if cache is None else cache)
    return AsyncHistoryManager(storage, cache, level=level)


def open_storage(
    url: str | os.PathLike[str] | None = None, *, durability: Durability = "full"
) -> Storage:
    """The one store object of this process for ``url``; see :func:`open_history`.

    Raises:
        ConfigurationError: see :func:`open_history`.
    """
    text = history_url() if url is None else os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _sqlite(text, durability)
    if scheme == "sqlite":
        if not rest.startswith("/") or rest == "/":
            raise ConfigurationError("a SQLite URL is sqlite:///PATH, such as sqlite:///history.db")
        return _sqlite(rest[1:], durability)
    if scheme == "memory":
        return _memory(rest)
    if scheme in ("postgresql", "postgres"):
        return _postgres(text)
    raise ConfigurationError(
        f"no store is known for {scheme}:// URLs; use sqlite:///PATH, postgresql://... or memory://"
    )


def _sqlite(path: str, durability: Durability) -> Storage:
    from asynchistory.storage.sqlite import SQLiteStorage

    if not path or "\0" in path:
        raise ConfigurationError("a SQLite store needs the path of a file")
    resolved = os.path.realpath(os.path.expanduser(path))
    with _lock:
        storage = _files.get(resolved)
        if storage is None:
            storage = _files[resolved] = SQLiteStorage(resolved, durability=durability)
        elif getattr(storage, "durability", durability) != durability:
            raise ConfigurationError(
                f"{resolved} is open in this process with another durability than {durability!r}"
            )
        return storage


def _postgres(url: str) -> Storage:
    try:
        from asynchistory.storage.postgres import PostgresStorage
    except ImportError as error:
        raise ConfigurationError(
            "PostgreSQL needs its driver: pip install 'asynchistory[postgres]'"
        ) from error
    with _lock:
        storage = _files.get(url)
        if storage is None:
            storage = _files[url] = PostgresStorage(url)
        return storage


def _memory(name: str) -> Storage:
    from asynchistory.storage.memory import MemoryStorage

    if not name:
        return MemoryStorage()
    with _lock:
        return _named.setdefault(name, MemoryStorage(name))
