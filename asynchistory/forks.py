"""What a forked child does first.

A lock that another thread held when the process was forked stays locked in the
child for ever: there is nobody there to release it. And what belongs to the
parent's threads and connections has to be let go of.
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


_forgetful: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()


def in_child(owner: object, method: str) -> None:
    """Have this method of ``owner`` called in a forked child, once its locks are new."""
    _forgetful[owner] = method


def _renew() -> None:
    for owner, names in list(_owners.items()):
        for name in names:
            setattr(owner, name, threading.Lock())
    for owner, method in list(_forgetful.items()):
        getattr(owner, method)()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
