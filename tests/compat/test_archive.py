"""Export, import, verify and backup from synchronous code."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynchistory import ArchiveError
from asynchistory_compat import HistoryManager


def test_a_store_goes_out_and_in_again(tmp_path: Path) -> None:
    with HistoryManager(tmp_path / "x.db") as history, HistoryManager("memory://") as other:
        for number in range(120):
            history.record_message(f"chat-{number}", "user", "Hello!")
        with history.export() as lines, (tmp_path / "x.jsonl").open("wb") as file:
            for line in lines:
                file.write(line)
            assert (lines.target.sessions, lines.target.damaged) == (120, 0)
            assert list(lines) == []

        with (tmp_path / "x.jsonl").open("rb") as file:
            assert other.import_(file).sessions == 120
        with history.export() as lines:
            # An iterator that itself calls synchronously: it runs in a thread where that works.
            assert other.import_(lines).skipped == 120
        with pytest.raises(ArchiveError, match="line 2"):
            other.import_(["\n", "no line"])

        assert other.verify().ok
        assert history.backup(tmp_path / "copy.db") == tmp_path / "copy.db"
    with HistoryManager(tmp_path / "copy.db") as copy:
        assert copy.count().sessions == 120


def test_an_export_of_one_session(tmp_path: Path) -> None:
    with HistoryManager(tmp_path / "x.db") as history:
        history.create_session("a", user_id="mia")
        history.create_session("b", user_id="mia")
        with history.export("b", user_id="mia") as lines:
            assert len(list(lines)) == 1
