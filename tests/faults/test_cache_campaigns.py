"""Short forms of the campaigns about the cache, and proof that they find what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from asynchistory import TailCache
from asynchistory.cache.redis import tier, wire
from asynchistory.queries import Tail, Version
from tests.faults import redis
from tests.faults.__main__ import main
from tests.faults.report import FINDINGS, Report
from tests.faults.stale import one_process
from tests.faults.stale_two import two_processes
from tests.redis.server import program

needs_redis = pytest.mark.skipif(program() is None, reason="there is no redis-server")


@needs_redis
@pytest.mark.parametrize(("name", "times"), [("stale", 60), ("redis", 200)])
def test_in_short(
    name: str, times: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a read takes is the campaign's figure, for a machine that does nothing else.
    monkeypatch.setattr(redis, "MOST_SECONDS", 10.0)
    code = main([name, "--times", str(times), "--json"])

    found = json.loads(capfd.readouterr().out)
    assert {finding: found[finding] for finding in FINDINGS} == dict.fromkeys(FINDINGS, 0), found
    assert code == 0
    assert found["counts"]["reads"] > times


# -- what a broken cache looks like


class Deaf(TailCache):
    """Does not hear of appends."""

    def wrote(self, appended: Any, rows: Any) -> None:
        pass


class Forgetful(TailCache):
    """Keeps what a write has overtaken."""

    def drop(self, session_id: str) -> None:
        with self._lock:
            self._entries.remove(session_id)


class Hasty(TailCache):
    """Trusts a tail that has a gap behind it."""

    def wrote(self, appended: Any, rows: Any) -> None:
        super().wrote(appended, rows)
        entry = self._entries.get(appended.session_id)
        if entry is not None:
            entry.ahead = None


@pytest.mark.parametrize("broken", [Deaf, Forgetful, Hasty])
def test_a_broken_cache_is_found(broken: Callable[[], TailCache]) -> None:
    report = Report("stale", 100, seed=7)
    one_process(report, 300, broken)

    assert set(report.findings) == {"stale"}


@needs_redis
def test_a_cache_that_believes_redis_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def believing(value: Any, key: bytes, session_id: str, version: Version) -> Tail | None:
        if not isinstance(value, bytes) or not value.startswith(b"T"):
            return None
        epoch, seq = map(int, value[1:42].split())
        held = wire.unpack(value, key, session_id, Version(epoch, seq))
        if held is None or len(held.records) < version.seq:
            return None
        return Tail(version, held.records[: version.seq])

    monkeypatch.setattr(tier, "wire", _With(unpack=believing))
    monkeypatch.setattr(TailCache, "_from_second", _unchecked)
    report = Report("stale", 60, seed=7)
    two_processes(report, 60)

    assert set(report.findings) & {"stale", "wrong"}


class _With:
    """The module, with another function in it."""

    def __init__(self, **others: Any) -> None:
        self._others = others

    def __getattr__(self, name: str) -> Any:
        return self._others.get(name) or getattr(wire, name)


async def _unchecked(
    self: TailCache, second: Any, storage: Any, session_id: str, count: int
) -> Tail | None:
    version = await storage.version(session_id)
    return version and await second.get(session_id, version)
