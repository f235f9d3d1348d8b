"""Closing an engine while its writer thread is on its way out."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from asynchistory import ForeignDatabaseError
from asynchistory.runs import Waiter, wake
from asynchistory.storage.sqlite import engine as module

pytestmark = pytest.mark.anyio


async def test_closing_returns_though_the_writer_has_just_told_all_who_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    # An open that failed is closed in just this moment, in which nobody would hear of the end.
    told, go_on = threading.Event(), threading.Event()
    path = tmp_path / "x.db"
    path.write_text("not a database")

    def wake_slowly(waiters: Iterable[Waiter]) -> None:
        wake(waiters)
        if all(engine.path != path for engine in module._LIVE):
            told.set()
            go_on.wait(30)

    monkeypatch.setattr(module, "wake", wake_slowly)
    engine = module.Engine(path, durability="full", lock_timeout=1)
    with pytest.raises(ForeignDatabaseError):
        await engine.ready()
    assert await anyio.to_thread.run_sync(told.wait, 30)

    def close() -> None:
        anyio.run(engine.aclose, backend=anyio_backend_name)

    # In a thread of its own, for a close that hangs could not be cancelled.
    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    while thread.is_alive() and not engine._closers:
        await anyio.lowlevel.checkpoint()
    go_on.set()
    await anyio.to_thread.run_sync(thread.join, 10)

    assert not thread.is_alive(), "aclose() waits for ever"
