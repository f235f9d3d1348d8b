"""Work of a reader thread that takes long, and ends early when its caller is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

#: Steps of SQLite's virtual machine between two looks at whether to stop: well under a millisecond.
_STEPS = 20_000


class StoppedError(Exception):
    """The caller has left. Nobody sees this."""


class Stop:
    """Whether the caller of some work still waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = self._claimed = False

    def withdraw(self) -> bool:
        """Ask the work to stop; False if it has gone too far for that. For the caller's thread."""
        with self._lock:
            self._stopped = not self._claimed
            return self._stopped

    def check(self) -> None:
        """Raise :class:`StoppedError` if the work is to stop. For the thread that does it."""
        if self._stopped:
            raise StoppedError

    def claim(self) -> None:
        """Go past the point from which on the work is not stopped, or raise as :meth:`check`."""
        with self._lock:
            self.check()
            self._claimed = True

    @contextmanager
    def interrupting(self, db: apsw.Connection) -> Iterator[None]:
        """A block in which statements of the connection fail once the work is to stop."""
        db.set_progress_handler(lambda: self._stopped, _STEPS)
        try:
            yield
        except apsw.InterruptError:
            raise StoppedError from None
        finally:
            db.set_progress_handler(None)
