"""Whether Redis is worth asking."""

from __future__ import annotations

import logging

from asynchistory.forks import own_lock

_log = logging.getLogger("asynchistory.cache")


class Breaker:
    """Opens at the first failure, so that nobody else waits for a server that is not there.

    While it is open one run of an event loop tries, in the background, whether the
    server is back; the breaker closes when it is.

    Args:
        location: the server's address, without secrets, for the log.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._lock = own_lock(self, "_lock")
        self._prober: object | None = None
        self.open: bool = False
        #: How many calls failed. Connections from before the last one are not to be trusted.
        self.failures: int = 0

    def fail(self, error: BaseException | None) -> None:
        """A call failed. None: it took too long."""
        with self._lock:
            self.failures += 1
            opened, self.open = not self.open, True
        if opened:
            why = "took too long" if error is None else f"failed ({type(error).__name__})"
            _log.warning("%s %s; reads go to the store until it is back", self.location, why)

    def probe(self, run: object) -> bool:
        """Whether this run is to find out when the server is back: if no other does."""
        with self._lock:
            if not self.open or self._prober is not None:
                return False
            self._prober = run
            return True

    def back(self) -> None:
        """The server answers."""
        with self._lock:
            self.open = False
        _log.info("%s is back", self.location)

    def leave(self, run: object) -> None:
        """This run looks no more."""
        with self._lock:
            if self._prober is run:
                self._prober = None
