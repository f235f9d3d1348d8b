"""200 real conversations in, out, counted by the command and by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke

REAL = Path(__file__).parents[3] / "shared" / "data" / "tau_bench_gpt4o_airline.json"

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL.name}")


@pytest.fixture(scope="module")
def data() -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = json.loads(REAL.read_text(encoding="utf-8"))
    return values


def test_real_conversations_come_in_and_out(invoke: Invoke, data: list[dict[str, Any]]) -> None:
    figures = json.loads(invoke("import", REAL, "--json").stdout)
    assert figures["sessions"] == 200
    assert figures["messages"] == 5_308
    assert (figures["tool_results"], figures["tool_results_tied"]) == (1_164, 1_164)

    again = json.loads(invoke("import", REAL, "--json").stdout)
    assert (again["sessions"], again["already_there"], again["broken"]) == (0, 200, 0)

    lists = json.loads(invoke("export", "--format", "openai").stdout)
    assert len(lists) == 200
    for exported, given in zip(lists, data, strict=True):
        assert exported == given["traj"]

    check_statistics(invoke, data)
    check_metadata(invoke, data)


def check_statistics(invoke: Invoke, data: list[dict[str, Any]]) -> None:
    messages = [message for item in data for message in item["traj"]]
    found = json.loads(invoke("stats", "--json").stdout)

    assert found["sessions"] == len(data)
    assert found["records"] == found["messages"] == len(messages)
    assert found["roles"] == Counter(message["role"] for message in messages)
    assert found["tool_calls"] == sum(len(m.get("tool_calls") or ()) for m in messages)
    assert found["tool_results"] == sum(message["role"] == "tool" for message in messages)


def check_metadata(invoke: Invoke, data: list[dict[str, Any]]) -> None:
    lines = map(json.loads, invoke("export").stdout.splitlines())
    for line, given in zip(lines, data, strict=True):
        rest = {key: value for key, value in given.items() if key != "traj"}
        assert line["session"]["metadata"] == {"import": rest}
