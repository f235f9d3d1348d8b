"""Locks that a forked child can take.

A lock that another thread held when the process was forked stays locked in the
child for ever: there is nobody there to release it.
"""

from __future__ import annotations

import os
import threading
import weakref

_owners: weakref.WeakKeyDictionary[object, set[str]] = weakref.WeakKeyDictionary()


def own_lock(owner: object, name: str) -> threading.Lock:
    """A lock to be kept in this attribute of ``owner``; a child gets a new one there."""
    _owners.setdefault(owner, set()).add(name)
    return threading.Lock()


def _renew() -> None:
    for owner, names in list(_owners.items()):
        for name in names:
            setattr(owner, name, threading.Lock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
