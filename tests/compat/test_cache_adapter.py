"""SyncCacheAdapter: an async cache for synchronous code, as legacy code knows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchistory import EnhancedCacheManager
from asynchistory_compat import HistoryManager, SyncCacheAdapter


def test_the_legacy_shape() -> None:
    cache = SyncCacheAdapter(EnhancedCacheManager())
    assert cache.timeout == 5
    assert cache.get("missing", "default") == "default"
    cache.set("key", {"a": 1}, 60)
    cache.set("other", 2)
    assert cache.get("key") == {"a": 1}
    assert cache.remove("key")
    assert not cache.remove("key")
    assert cache.remove_by_pattern("oth*") == 1
    assert cache.get_or_set("made", lambda: 3) == 3
    assert cache.cleanup_expired() == 0
    assert cache.clear() == 1


class Broken(EnhancedCacheManager):
    async def get(self, key: str, default: Any = None) -> Any:
        if key == "slow":
            await anyio.sleep_forever()
        raise OSError("the cache is down")


def test_errors_are_raised_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="down"):
        SyncCacheAdapter(Broken()).get("key")
    with pytest.raises(TimeoutError):
        SyncCacheAdapter(Broken(), timeout=0.01).get("slow")
    assert capsys.readouterr() == ("", "")


def test_one_load_for_all_threads() -> None:
    cache = SyncCacheAdapter(EnhancedCacheManager())
    made = []

    def factory() -> int:
        made.append(1)
        return len(made)

    with ThreadPoolExecutor(10) as pool:
        values = list(pool.map(lambda _: cache.get_or_set("key", factory), range(50)))
    assert set(values) == {1}
    assert len(made) == 1


@pytest.mark.parametrize("use_sync_cache", [True, False])
def test_the_manager_s_cache_is_the_adapter_or_the_cache_itself(
    use_sync_cache: bool, tmp_path: Path
) -> None:
    cache = EnhancedCacheManager()
    with HistoryManager(tmp_path / "history.db", cache, use_sync_cache) as history:
        assert history.record_message("chat", "user", "hello").seq == 1
        if use_sync_cache:
            assert isinstance(history.cache, SyncCacheAdapter)
            assert history.cache.target is cache
        else:
            assert history.cache is cache
