"""The contract of a store, as tests: subclass one class, and every promise of the port is a test.

::

    from asynchistory.testing.contract import StoreContract

    class TestMyStore(StoreContract):
        def make_storage(self, folder):
            return MyStore(folder / "my.db")

Each test runs on asyncio and on trio. It needs pytest, and AnyIO's plugin, which
comes with AnyIO.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            "appends",
            "archives",
            "cancelling",
            "changes",
            "counting",
            "forks",
            "reads",
            "searches",
            "sessions",
        )
    )
)

from asynchistory.testing.contract.appends import Appends  # noqa: E402
from asynchistory.testing.contract.archives import Archiving  # noqa: E402
from asynchistory.testing.contract.cancelling import Cancelling  # noqa: E402
from asynchistory.testing.contract.changes import Changes  # noqa: E402
from asynchistory.testing.contract.counting import Counting  # noqa: E402
from asynchistory.testing.contract.forks import Forks  # noqa: E402
from asynchistory.testing.contract.reads import Reads  # noqa: E402
from asynchistory.testing.contract.searches import Searches  # noqa: E402
from asynchistory.testing.contract.sessions import Sessions  # noqa: E402

__all__ = ["StoreContract"]


class StoreContract(
    Appends, Archiving, Cancelling, Changes, Counting, Forks, Reads, Searches, Sessions
):
    """Every promise of :class:`~asynchistory.Storage` as a test, on both event loops.

    Subclass it under a name that begins with ``Test`` and say in
    :meth:`make_storage` how to make your store.

    Attributes:
        durable: what is stored is there when another object is made over the same
            folder. False leaves out the tests of that.
    """
