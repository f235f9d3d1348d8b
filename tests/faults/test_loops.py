"""The campaigns `loops`, `conversations` and `forks` in short, and that they find something."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import anyio
import pytest

from asynchistory.testing import LoopbackLLM, Reply
from tests.faults import conversations, forks, loops
from tests.faults.report import LOOPS, Report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

CALLS, MORE, TALKS = 10, 6, 24


@pytest.mark.parametrize("name", loops.NAMES)
def test_loops_in_short(name: str) -> None:
    pytest.importorskip("openai" if name == "asynchistory" else name)
    report = Report("loops", 1)
    loops.use(report, name, MORE, CALLS)

    assert not report.found, report.messages
    calls = CALLS * (loops.IN_TURN + loops.AT_ONCE) + MORE * loops.FEW_CALLS
    assert report.acknowledged == report.stored == report.counts[f"{name}: calls"] == calls


def test_a_client_of_one_loop_is_found_out() -> None:
    pytest.importorskip("openai")
    report = Report("loops", 1)
    loops.use(report, "openai on its own", 0, 1)

    assert report.errors or report.duplicates


@pytest.mark.parametrize("backend", LOOPS)
def test_conversations_in_short(backend: str, memory: Path) -> None:
    with LoopbackLLM(conversations.answer) as server:
        report = talk(backend, memory, server)

    assert not report.found, report.messages
    assert report.acknowledged == report.stored == TALKS


def test_answers_to_others_are_found_out(memory: Path) -> None:
    with LoopbackLLM(Reply("You said: 1 goes on")) as server:
        report = talk("asyncio", memory, server)

    assert report.findings == {"lost": TALKS - 1}


def talk(backend: str, folder: Path, server: LoopbackLLM) -> Report:
    report = Report("conversations", 1)
    hold = partial(conversations.crowd, report, folder / "x.db", server.url, TALKS)
    anyio.run(hold, backend=backend)
    return report


def test_forks_in_short() -> None:
    pytest.importorskip("trustme")
    report = forks.campaign(1)

    assert not report.found, report.messages
    assert report.acknowledged == report.stored > 0
    assert all(count == forks.CHILDREN + 1 for count in report.counts.values())
