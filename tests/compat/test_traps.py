"""Each trap of synchronous calls, in a process of its own with a time limit, on both backends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
PAIR = pytest.mark.parametrize("backend", ["asyncio", "trio"])
#: Seconds after which a trap has caught somebody.
LIMIT = 60

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


def spring(trap: str, backend: str, folder: Path) -> tuple[list[str], str]:
    """What a trap says, and what it complains of; its exit code is 0."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.compat.trapping", trap, backend, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr


def said(trap: str, backend: str, folder: Path) -> list[str]:
    lines, complaints = spring(trap, backend, folder)
    assert complaints == ""
    return lines


@BACKENDS
def test_a_call_from_the_bridge_s_own_loop(backend: str, tmp_path: Path) -> None:
    error, length = said("own_loop", backend, tmp_path)
    assert "wait for itself" in error
    assert length == "1"


@BACKENDS
def test_calls_in_running_loops(backend: str, tmp_path: Path) -> None:
    assert said("in_loops", backend, tmp_path) == [
        line for count in (2, 4, 6) for line in (f"{count} {count}", "kept", "SessionNotFoundError")
    ]


@BACKENDS
def test_a_call_for_what_its_own_loop_is_creating(backend: str, tmp_path: Path) -> None:
    named = ["LoopThreadError True True", "instance"]
    assert said("blocked_loop", backend, tmp_path)[:2] == named


@PAIR
def test_forty_workers_at_once(backend: str, tmp_path: Path) -> None:
    assert said("workers", backend, tmp_path) == ["40 40 0", "40 40 0"]


@PAIR
def test_a_host_that_is_cancelled(backend: str, tmp_path: Path) -> None:
    once = ["cleaned up", "cancelled", "left", "cancelled", "cleaned up", "closed", "cancelled"]
    assert said("cancelled_host", backend, tmp_path) == once * 2


@forks
@BACKENDS
def test_forks(backend: str, tmp_path: Path) -> None:
    assert said("fork", backend, tmp_path) == [
        "child 0",
        "multiprocessing 0",
        "pool [None, None, None, None]",
        "parent 2 1",
        "memory 2",
    ]


@forks
@PAIR
def test_forks_while_four_threads_call(backend: str, tmp_path: Path) -> None:
    assert said("fork_at_work", backend, tmp_path) == ["children {0} parent True", "True"]


@forks
@PAIR
def test_a_fork_in_a_worker_thread(backend: str, tmp_path: Path) -> None:
    assert said("fork_in_a_worker", backend, tmp_path) == ["0", "0"]


@BACKENDS
def test_exit_without_close(backend: str, tmp_path: Path) -> None:
    assert said("exit_without_close", backend, tmp_path) == ["1 True"]
    assert said("exit_without_close", backend, tmp_path) == ["2 True"]


@PAIR
def test_exit_closes_the_last_one_first(backend: str, tmp_path: Path) -> None:
    lines, complaints = spring("exit_order", backend, tmp_path)
    assert lines == ["closed fresh", "closed cached", "closed validated"]
    assert "cannot close" in complaints


@BACKENDS
def test_exit_with_a_blocked_bridge(backend: str, tmp_path: Path) -> None:
    assert said("exit_blocked", backend, tmp_path) == []


@PAIR
def test_calls_from_atexit(backend: str, tmp_path: Path) -> None:
    lines = said("atexit_calls", backend, tmp_path)
    assert lines == ["in time 2", "too late BridgeClosedError"]


@PAIR
def test_first_calls_after_the_end(backend: str, tmp_path: Path) -> None:
    lines = said("late_calls", backend, tmp_path)
    assert lines == ["atexit: BridgeClosedError", "finalizer: BridgeClosedError"]


@PAIR
def test_calls_from_finalizers(backend: str, tmp_path: Path) -> None:
    assert said("in_a_finalizer", backend, tmp_path) == ["nothing", "LoopThreadError", "1"]


@BACKENDS
def test_exits_reach_their_caller_alone(backend: str, tmp_path: Path) -> None:
    assert said("exits", backend, tmp_path) == [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "7 42",
    ]


@posix
@BACKENDS
@pytest.mark.parametrize("trap", ["ctrl_c", "ctrl_c_with_timeout", "ctrl_c_in_a_loop"])
def test_ctrl_c(trap: str, backend: str, tmp_path: Path) -> None:
    assert said(trap, backend, tmp_path) == ["cleaned up", "KeyboardInterrupt", "5", "42"]


@posix
@BACKENDS
def test_ctrl_c_at_any_moment(backend: str, tmp_path: Path) -> None:
    assert said("ctrl_c_anywhere", backend, tmp_path) == ["True 42"]


@BACKENDS
def test_timeouts(backend: str, tmp_path: Path) -> None:
    assert said("timeouts", backend, tmp_path) == [
        "cleaned up",
        "the call was cancelled after its timeout of 0.01 s",
        "5",
        "in the clean-up",
    ]


@BACKENDS
def test_iterators_that_are_left(backend: str, tmp_path: Path) -> None:
    assert said("streams", backend, tmp_path) == [
        "[0, 1, 2]",
        "left True True",
        "broken off True",
        "forgotten True",
        "on the loop True",
        "whole 499500 True",
    ]


@PAIR
def test_a_turn_that_is_abandoned(backend: str, tmp_path: Path) -> None:
    assert said("abandoned_turn", backend, tmp_path) == ["True", "()"]


@PAIR
def test_a_creation_that_fails(backend: str, tmp_path: Path) -> None:
    assert said("creation_fails", backend, tmp_path) == ["True"]
