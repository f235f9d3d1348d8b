"""Ids and clocks: time-ordered record ids and wall-clock microseconds."""

from __future__ import annotations

import itertools
import os
import struct
import time

_node = 0
_counter = itertools.count()
_pack = struct.Struct(">QQ").pack


def _seed() -> None:
    # A forked child must not go on with its parent's ids.
    global _node, _counter
    _node = 1 << 63 | int.from_bytes(os.urandom(5))
    _counter = itertools.count()


_seed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_seed)


def now_us() -> int:
    """The wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


def new_record_id(now: int) -> bytes:
    """A UUIDv7 (RFC 9562, section 5.7): milliseconds, then a counter, then random bits.

    The counter takes the place of the leading random bits, so that ids made in
    one process within one millisecond are ordered too. ``now``: :func:`now_us`.
    """
    count = next(_counter)
    return _pack(
        (now // 1000) << 16 | 0x7000 | count >> 22 & 0xFFF, _node | (count & 0x3FFFFF) << 40
    )
