"""URLs to caches: ``memory://``, ``redis://...``, ``rediss://...``, ``none``."""

from __future__ import annotations

import ssl
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from uuid import uuid4

from asynchistory.cache.tail import TailCache, share
from asynchistory.errors import ConfigurationError
from asynchistory.storage.port import Storage

if TYPE_CHECKING:
    from asynchistory.cache.redis.line import Server

_TAIL = {"max_bytes": int, "depth": int, "ttl": float}
_REDIS = {**_TAIL, "namespace": str, "expire": float, "deadline": float, "ca": str}


def cache_of(storage: Storage, url: str) -> TailCache:
    """The cache of a store, made as the URL says; one store has one, for all its managers.

    Raises:
        ConfigurationError: the URL cannot be used, or the store has another cache already.
    """
    known, cache = share(storage, url, lambda: _made(storage, url))
    if known != url:
        raise ConfigurationError(
            f"{storage.url} is open in this process with another cache, which would not be told "
            "of what is written by this one; give all who open it the same cache URL"
        )
    return cache


def _made(storage: Storage, url: str) -> TailCache:
    if url == "none":
        return TailCache(max_bytes=0)
    try:
        parts = urlsplit(url)
        scheme = parts.scheme
    except ValueError:
        scheme = ""
    if scheme == "memory" and not parts.netloc and not parts.path:
        return TailCache(**_options(parts, _TAIL))
    if scheme in ("redis", "rediss"):
        return _redis(storage, parts)
    raise ConfigurationError(
        "a cache is memory://, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or none"
    )


def _redis(storage: Storage, parts: SplitResult) -> TailCache:
    options = _options(parts, _REDIS)
    try:
        from asynchistory.cache.redis.tier import RedisTier
    except ImportError:
        raise ConfigurationError(
            "a cache in Redis needs coredis: pip install 'asynchistory[redis]'"
        ) from None
    # Another store may have a session with the same id; those in memory are each another.
    name = storage.url if not storage.url.startswith("memory:") else uuid4().hex
    default = f"asynchistory:{blake2b(name.encode(), digest_size=8).hexdigest()}"
    tier = RedisTier(
        _server(parts, options.pop("deadline", 0.25), options.pop("ca", None)),
        options.pop("namespace", default),
        options.pop("expire", 3600.0),
    )
    return TailCache(second=tier, **options)


def _server(parts: SplitResult, deadline: float, ca: str | None) -> Server:
    from asynchistory.cache.redis.line import Server

    # Nothing of the URL is repeated in an error: there may be a password in it.
    try:
        port = parts.port or 6379
        db = int(parts.path.strip("/") or 0)
    except ValueError:
        port = db = -1
    if not parts.hostname or port < 0 or db < 0 or not 0 < deadline < float("inf"):
        raise ConfigurationError(
            "a Redis URL is redis://[USER:PASSWORD@]HOST[:PORT][/DB], with numbers for PORT and DB "
            "and a positive number of seconds for deadline"
        )
    return Server(
        host=parts.hostname,
        port=port,
        db=db,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=_tls(ca) if parts.scheme == "rediss" else None,
        deadline=deadline,
    )


def _tls(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigurationError(
            f"the certificates that ca= names cannot be read ({error.strerror})"
        ) from None


def _options(parts: SplitResult, known: dict[str, Any]) -> dict[str, Any]:
    options = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise ConfigurationError(
                f"a cache URL has no option {name!r}; it has {', '.join(known)}"
            )
        try:
            options[name] = known[name](text)
        except ValueError:
            raise ConfigurationError(f"{name}= in a cache URL must be a number") from None
    return options
