"""The second tier over Redis: see :class:`asynchistory.cache.tier.SecondTier` for what it promises.

Not one of its answers is trusted for its being there: a tail is used only if its version, which it
carries, is the store's. So whatever Redis lost, kept or was not told of, be it by a flush, a
restart, a connection that broke or a writer that was killed, costs a read of the store at
most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from asynchistory.cache.redis import wire
from asynchistory.cache.redis.breaker import Breaker
from asynchistory.cache.redis.line import Line, Server
from asynchistory.cache.tier import SecondTier, TierStatistics
from asynchistory.codec import Row
from asynchistory.errors import InvalidRecordError
from asynchistory.forks import in_child, own_lock
from asynchistory.queries import Tail, Version
from asynchistory.runs import current_run, until_end

#: The largest tail that is kept, in bytes.
MOST_BYTES = 1024 * 1024
#: Seconds for which an older version is refused. No read of the store takes so long.
BURIED = 60.0


class RedisTier(SecondTier):
    """Tails in one Redis, for all event loops and threads of the process.

    Args:
        server: where it is.
        namespace: what every key begins with; its own for each store.
        expire: seconds that a tail is kept after its last change.
    """

    def __init__(self, server: Server, namespace: str, expire: float = 3600.0) -> None:
        self.server = server
        self.namespace = namespace
        self.expire = expire
        self._lock = own_lock(self, "_lock")
        self._parents: list[object] = []
        self._lines: dict[object, Line] = {}
        self._breaker = Breaker(repr(server))
        self._hits = self._misses = self._skipped = self._written = 0
        in_child(self, "_forget")

    def __repr__(self) -> str:
        return f"<RedisTier {self.server!r} {self.namespace}>"

    def _forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        # Kept, and so not closed: closing says goodbye to the server in the parent's name.
        self._parents.append(self._lines)
        self._lines = {}
        self._breaker = Breaker(repr(self.server))

    def key(self, session_id: str) -> bytes:
        """Under which a session's tail is kept."""
        return f"{self.namespace}:{wire.SCHEMA}:{session_id}".encode()

    # -- reads

    @property
    def ready(self) -> bool:
        """Whether it answers, as far as is known."""
        if not self._breaker.open:
            return True
        with self._lock:
            self._skipped += 1
        self._line().look()
        return False

    async def get(self, session_id: str, version: Version) -> Tail | None:
        """See :meth:`asynchistory.cache.tier.SecondTier.get`."""
        key = self.key(session_id)
        answer = await self._line().call(b"GET", key)
        tail = wire.unpack(answer, key, session_id, version)
        with self._lock:
            self._hits += tail is not None
            self._misses += tail is None
        return tail

    # -- changes: told in the background, so that no write and no read waits for them

    def keep(self, session_id: str, tail: Tail) -> None:
        """See :meth:`asynchistory.cache.tier.SecondTier.keep`."""
        self._add(partial(self._kept, self.key(session_id), tail))

    def _kept(self, key: bytes, tail: Tail) -> Sequence[bytes] | None:
        try:
            content = wire.pack(key, tail)
        except InvalidRecordError:  # it is from a time of other bounds
            return None
        if content is None or len(content) > MOST_BYTES:
            return None
        return self._change(key, b"keep", wire.stamp(tail.version), content)

    def extend(self, session_id: str, version: Version, rows: Sequence[Row]) -> None:
        """See :meth:`asynchistory.cache.tier.SecondTier.extend`."""
        self._add(partial(self._extended, self.key(session_id), version, rows))

    def _extended(self, key: bytes, version: Version, rows: Sequence[Row]) -> Sequence[bytes]:
        before = Version(version.epoch, version.seq - len(rows))
        content = wire.lines(rows, version.seq)
        return self._change(key, b"extend", wire.stamp(version), content, wire.stamp(before))

    def bury(self, session_id: str, version: Version | None) -> None:
        """See :meth:`asynchistory.cache.tier.SecondTier.bury`."""
        key = self.key(session_id)
        if version is None:
            change = self._change(key, b"gone", b"", b"")
        else:
            change = self._change(key, b"bury", wire.stamp(version), b"")
        self._add(lambda: change)

    def _change(
        self, key: bytes, what: bytes, stamp: bytes, content: bytes, before: bytes = b""
    ) -> Sequence[bytes]:
        life = BURIED if what in (b"bury", b"gone") else self.expire
        return (key, what, stamp, content, b"%d" % (life * 1000), b"%d" % MOST_BYTES, before)

    def _add(self, change: Callable[[], Sequence[bytes] | None]) -> None:
        told = not self._breaker.open and self._line().add(change)
        with self._lock:
            self._written += told
            self._skipped += not told

    async def settle(self) -> bool:
        """See :meth:`asynchistory.cache.tier.SecondTier.settle`."""
        if self._breaker.open:
            return False
        line = self._lines.get(current_run())
        return line is None or await line.mark()

    def statistics(self) -> TierStatistics:
        """See :meth:`asynchistory.cache.tier.SecondTier.statistics`."""
        with self._lock:
            return TierStatistics(
                hits=self._hits,
                misses=self._misses,
                failures=self._breaker.failures,
                skipped=self._skipped,
                written=self._written,
                open=self._breaker.open,
            )

    # -- the running event loop's connections

    def _line(self) -> Line:
        run = current_run()
        line = self._lines.get(run)
        if line is None:
            # By the run itself, whose entry goes when it ends.
            line = self._lines[run] = Line(self.server, self._breaker, run)
            until_end(partial(self._host, line))
        return line

    async def _host(self, line: Line) -> None:
        try:
            await line.tell()
        finally:
            self._breaker.leave(line.run)
            if self._lines.get(line.run) is line:
                del self._lines[line.run]
