"""Two processes on one file, each with its own cache, at the default level."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from asynchistory import AsyncHistoryManager, HistoryQuery, SQLiteStorage

pytestmark = pytest.mark.anyio

WRITER = """
import sys, anyio
from asynchistory import AsyncHistoryManager, SQLiteStorage
async def main():
    async with AsyncHistoryManager(SQLiteStorage(sys.argv[1])) as history:
        for line in sys.stdin:
            records = await history.last("chat")
            await history.record_message("chat", "user", line.strip())
            print(len(records), flush=True)
anyio.run(main, backend=sys.argv[2])
"""


async def test_two_processes_on_one_file_see_each_others_appends(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    path = tmp_path / "x.db"
    async with AsyncHistoryManager(SQLiteStorage(path)) as history:
        await history.record_message("chat", "user", "ours 0")
        other = await anyio.open_process(
            [sys.executable, "-c", WRITER, str(path), anyio_backend_name], stderr=subprocess.PIPE
        )
        async with other:
            assert other.stdin is not None
            assert other.stdout is not None
            lines = BufferedByteReceiveStream(other.stdout)
            for number in range(1, 6):
                await other.stdin.send(f"theirs {number}\n".encode())
                assert int(await lines.receive_until(b"\n", 100)) == 2 * number - 1
                records = await history.last("chat")
                assert records[-1].text == f"theirs {number}"
                page = await history.query_history(HistoryQuery("chat"))
                assert page.records == records
                await history.record_message("chat", "user", f"ours {number}")
            await other.stdin.aclose()
            assert await other.wait() == 0
        assert len(await history.last("chat")) == 11
