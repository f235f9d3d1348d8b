"""The test tools themselves: each variant runs on the loop it claims, and blocking calls fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import asynchistory

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.anyio
async def test_a_variant_runs_on_the_loop_it_claims(anyio_backend_name: str) -> None:
    on_asyncio, on_trio = in_asyncio(), trio.lowlevel.in_trio_run()

    assert (on_asyncio, on_trio) == (anyio_backend_name == "asyncio", anyio_backend_name == "trio")


def test_both_variants_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(Path(__file__).read_text(encoding="utf-8"))

    result = pytester.runpytest_subprocess("-v", "-k", "test_a_variant_runs_on_the_loop_it_claims")

    result.assert_outcomes(passed=2, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines_random(["*[[]asyncio] PASSED*", "*[[]trio] PASSED*"])


def test_an_item_with_both_marks_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.mark.trio
        async def test_on_which_loop():
            raise AssertionError("it ran")
        """
    )

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_on_which_loop* is marked both anyio and trio*"])


@pytest.fixture
def package_code() -> Callable[[], None]:
    """A blocking function that seems to stand in a file of the package."""
    pytest.importorskip("blockbuster")
    file = Path(asynchistory.__path__[0], "blocks.py")
    space = {"time": time}
    exec(compile("def pause(): time.sleep(0)", file, "exec"), space)
    return space["pause"]  # type: ignore[return-value]


@pytest.mark.anyio
async def test_a_blocking_call_in_the_package_fails_on_asyncio(
    package_code: Callable[[], None], anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        package_code()  # blockbuster does not see trio
        return
    with pytest.raises(Exception, match=r"Blocking call to time\.sleep"):
        package_code()


@pytest.mark.anyio
async def test_a_blocking_call_elsewhere_does_not_fail() -> None:
    time.sleep(0)  # noqa: ASYNC251


def test_a_blocking_call_outside_of_a_loop_does_not_fail(package_code: Callable[[], None]) -> None:
    package_code()
