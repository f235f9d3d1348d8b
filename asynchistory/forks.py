"""What a forked child does first, and what a fork waits for.

A lock that another thread held when the process was forked stays locked in the
child for ever: there is nobody there to release it. Ours are made anew. Those in
a C library are not ours, so that a fork waits until nobody is in there. And what
belongs to the parent's threads and connections has to be let go of.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

_owners: weakref.WeakKeyDictionary[object, set[str]] = weakref.WeakKeyDictionary()


def own_lock(owner: object, name: str) -> threading.Lock:
    """A lock to be kept in this attribute of ``owner``; a child gets a new one there."""
    _owners.setdefault(owner, set()).add(name)
    return threading.Lock()


_forgetful: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()


def in_child(owner: object, method: str) -> None:
    """Have this method of ``owner`` called in a forked child, once its locks are new."""
    _forgetful[owner] = method


#: Seconds that a fork waits for threads to leave a C library. What takes longer is mostly asleep.
PATIENCE = 1.0

_all: set[weakref.ref[Inside]] = set()
_turn = threading.Lock()  # held during a fork; who is about to enter waits for it
_kept_out: list[threading.Lock] = []


class Inside:
    """A block during which its thread is in a C library that has locks of its own.

    The process is not forked meanwhile, unless the block takes longer than :data:`PATIENCE`.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock: threading.Lock = own_lock(self, "lock")
        _all.add(weakref.ref(self, _all.discard))

    def __enter__(self) -> None:
        if _turn.locked():  # or a fork might never get the lock of a thread that is always busy
            with _turn:
                pass
        self.lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self.lock.release()


def _keep_out() -> None:
    _turn.acquire()
    deadline = time.monotonic() + PATIENCE
    for inside in [reference() for reference in list(_all)]:
        if inside and inside.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _kept_out.append(inside.lock)


def _let_in() -> None:
    while _kept_out:
        _kept_out.pop().release()
    _turn.release()


def _renew() -> None:
    global _turn
    _turn = threading.Lock()
    _kept_out.clear()
    for owner, names in list(_owners.items()):
        for name in names:
            setattr(owner, name, threading.Lock())
    for owner, method in list(_forgetful.items()):
        getattr(owner, method)()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_keep_out, after_in_parent=_let_in, after_in_child=_renew)
