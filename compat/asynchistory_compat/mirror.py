"""One synchronous method for each async one, with its signature and docstring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from asynchistory_compat.bridge import bridge

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class Twin(Protocol[A_co]):
    """The synchronous form of an async object."""

    @property
    def timeout(self) -> float | None:
        """Seconds after which a call is cancelled."""

    def _opened(self) -> A_co: ...


def mirror(
    function: Callable[Concatenate[A, P], Awaitable[T]],
) -> Callable[Concatenate[Any, P], T]:
    """The synchronous form of an async method of what a twin stands for."""

    @wraps(function)
    def call(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        opened = self._opened()
        return bridge().call(partial(function, opened, *args, **kwargs), self.timeout)

    return call
