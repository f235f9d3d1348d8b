"""Watching from synchronous code, and the manager's other methods for context and checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynchistory import EpochChangedError, Message, NotOpenError, SessionNotFoundError
from asynchistory_compat import HistoryManager, Watch


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryManager]:
    with HistoryManager(tmp_path / "history.db") as manager:
        yield manager


def test_records_as_they_are_stored(history: HistoryManager) -> None:
    history.create_session("chat")
    found = []

    def write() -> None:
        for number in range(100):
            history.record_message("chat", "user", str(number))

    with history.watch("chat") as records:
        assert isinstance(records, Watch)
        writer = threading.Thread(target=write)
        writer.start()
        for record in records:
            assert isinstance(record, Message)
            found.append(record.text)
            if len(found) == 100:
                break
        writer.join()
        assert (records.seq, records.epoch) == (100, history.get_session("chat").epoch)
    assert found == [str(number) for number in range(100)]
    with pytest.raises(NotOpenError):
        next(records)


def test_going_on_from_an_earlier_watch(history: HistoryManager) -> None:
    history.append("chat", *[Message.of("user", "x")] * 5)
    with history.watch("chat", after_seq=0) as first:
        assert [next(first).seq for _ in range(3)] == [1, 2, 3]
    with history.watch("chat", after_seq=first.seq, epoch=first.epoch) as second:
        assert next(second).seq == 4
    history.truncate("chat", 4)
    with pytest.raises(EpochChangedError), history.watch("chat", epoch=first.epoch):
        pass
    with pytest.raises(SessionNotFoundError), history.watch("none"):
        pass


def test_a_wait_ends_with_the_timeout_and_can_be_begun_again(tmp_path: Path) -> None:
    with HistoryManager(tmp_path / "history.db") as history:
        history.create_session("chat")
        history.timeout = 0.05
        with history.watch("chat") as records:
            start = time.monotonic()
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    next(records)
            assert 0.1 <= time.monotonic() - start < 10
            records.timeout = history.timeout = 20
            history.record_message("chat", "user", "late")
            assert next(records).seq == 1


def test_context_and_checkpoints(history: HistoryManager) -> None:
    history.append("chat", *[Message.of("user", str(number)) for number in range(5)])

    assert [message.text for message in history.window("chat", last=2)] == ["3", "4"]
    assert history.pending_tool_calls("chat") == ()
    assert history.repair("chat").appended is None
    saved = history.save_checkpoint("chat", "here", {"step": 1})
    assert history.get_checkpoint("chat", "here") == saved
    assert history.list_checkpoints("chat") == (saved,)
