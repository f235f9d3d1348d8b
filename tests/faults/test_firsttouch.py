"""The campaign ``firsttouch`` in short, and proof that it can find something."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest

from asynchistory import ClientCreationError, LLMFactory
from asynchistory.llm.flight import Flight
from asynchistory.runs import current_run
from tests.faults.__main__ import main
from tests.faults.firsttouch import SCENES, touch_once
from tests.faults.report import FINDINGS, Report


def test_firsttouch_in_short(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["firsttouch", "--times", "3", "--json"])

    found = json.loads(capfd.readouterr().out)
    assert {name: found[name] for name in FINDINGS} == dict.fromkeys(FINDINGS, 0), found
    assert found["counts"] == dict.fromkeys(SCENES, 3)
    assert code == 0


class OneALoop(LLMFactory):
    """What a lock of the loop's own kind gives, and nothing else."""

    async def get_or_create(self, key: Hashable, create: Callable[[], Awaitable[Any]]) -> Any:
        return await super().get_or_create((key, current_run()), create)


class LosesHandOvers(LLMFactory):
    """A creator that is cancelled takes those down who wait for it."""

    def _hand_over(self, flight: Flight) -> None:
        flight.error, flight.done = ClientCreationError("cancelled"), True
        super()._hand_over(flight)


class KeepsFailures(LLMFactory):
    """What failed once is not tried again."""

    def _part(self, key: Hashable, flight: Flight) -> None:
        super()._part(key, flight)
        if flight.error is not None:
            self._flights[key] = flight


@pytest.mark.parametrize(
    ("make", "scene", "finding"),
    [
        (OneALoop, "50 asyncio and 50 trio loops", "duplicates"),
        (OneALoop, "10 loops of 100 tasks", "duplicates"),
        (LosesHandOvers, "cancelled among tasks, trio", "lost"),
        (LosesHandOvers, "cancelled among 10 loops", "lost"),
    ],
)
def test_a_broken_factory_is_found(
    make: Callable[[], LLMFactory], scene: str, finding: str
) -> None:
    report = Report("firsttouch", 1)

    for seed in range(5):
        touch_once(report, scene, random.Random(seed), make)
    assert report.findings.get(finding), report.findings


def test_a_failure_that_is_kept_is_found() -> None:
    report = Report("firsttouch", 1)

    with pytest.raises(ClientCreationError):
        touch_once(report, "failing among 10 loops", random.Random(1), KeepsFailures)
    assert report.findings.get("stranded")
