"""What all tests share: both event loops, and no blocking calls on asyncio's."""

from __future__ import annotations

import importlib.util
import platform
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# A shell starts what it puts in the background with Ctrl-C ignored, and programs that the tests
# start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("asynchistory", deadline=None)
hypothesis.settings.load_profile("asynchistory")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop that a test marked ``anyio`` runs on: each of them in turn."""
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("anyio") and item.get_closest_marker("trio"):
            raise pytest.UsageError(
                f"{item.nodeid} is marked both anyio and trio, so that its [asyncio] variant "
                "would run on trio; keep one of the marks"
            )


@pytest.fixture(scope="session", autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """Fail where asynchistory's code sleeps, or touches files or sockets, on an asyncio loop.

    It cannot see a trio loop, nor what SQLite does inside apsw. It is in force
    for the whole session, since it changes built-in types, which threads of
    a test that has ended may still be using.
    """
    if platform.python_implementation() != "CPython":
        yield
        return
    from blockbuster import blockbuster_ctx

    # compat blocks by design: its callers are synchronous.
    compat = ["asynchistory_compat"] if importlib.util.find_spec("asynchistory_compat") else []
    with blockbuster_ctx("asynchistory", excluded_modules=compat) as guard:
        # A relative path is made absolute where a store is named, before anything is opened.
        for name in ("os.getcwd", "os.path.abspath", "os.path.islink", "os.readlink"):
            guard.functions[name].deactivate()
        # A busy loop lets the thread that it waits for go first, for some milliseconds.
        guard.functions["threading.Lock.acquire"].can_block_in("asynchistory/runs.py", "_give_way")
        # An import, which reads the version of what is imported.
        guard.functions["io.TextIOWrapper.read"].can_block_in("httpcore2/__init__.py", "<module>")
        # Coverage takes a lock of its own in whatever code it measures.
        guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield
