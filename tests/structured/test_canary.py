"""Tests in this folder run on trio, through pytest-trio."""

from __future__ import annotations

import asyncio

import pytest
import trio


@pytest.mark.trio
async def test_runs_on_trio() -> None:
    assert trio.lowlevel.in_trio_run()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.mark.trio
async def test_time_is_virtual(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()

    await trio.sleep(3600)

    assert trio.current_time() - start == 3600
