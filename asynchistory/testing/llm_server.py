"""LoopbackLLM: a model server on this machine that answers what a test wants."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from asynchistory.errors import LifecycleError, NotOpenError
from asynchistory.testing.loopback_app import LoopbackApp, ReceivedRequest

if TYPE_CHECKING:
    from asynchistory.testing.replies import Script
    from asynchistory.testing.uvicorn_thread import ServerThread


class LoopbackLLM:
    """A server on 127.0.0.1 that speaks OpenAI's and Anthropic's formats over real HTTP.

    Enter it with ``with``; it runs in a thread of its own, so that any number
    of threads and event loops can use it at once. It can be entered anywhere,
    in a running event loop too, which it holds up for some milliseconds.
    Leaving it cuts what is open.

    Args:
        reply: a :class:`Reply` or :class:`Fault` for every request, an iterable of them to be
            given one after another, or a callable that gets the request's JSON and returns
            one; it runs in the server's event loop, so it must not block. None repeats what
            the user said last.
        api_key: the one key that is accepted; None accepts all.
    """

    def __init__(self, reply: Script | None = None, *, api_key: str | None = None) -> None:
        self._app = LoopbackApp(reply, api_key=api_key)
        self._thread: ServerThread | None = None

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:50123/v1``; afterwards nobody answers there.

        Raises:
            NotOpenError: the server has not been entered.
        """
        if self._thread is None:
            raise NotOpenError("the server has no address before it is entered: use `with`")
        return f"http://127.0.0.1:{self._thread.port}/v1"

    @property
    def origin(self) -> str:
        """The URL without ``/v1``, which Anthropic's own clients add themselves.

        Raises:
            NotOpenError: the server has not been entered.
        """
        return self.url.removesuffix("/v1")

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """All requests so far, in the order in which they came. From any thread."""
        return tuple(self._app.requests)

    @property
    def count(self) -> int:
        """How many requests there were so far."""
        return len(self._app.requests)

    def __enter__(self) -> LoopbackLLM:
        if self._thread is not None:
            raise LifecycleError("a server runs once; make another LoopbackLLM")
        self._thread = _thread_class()(self._app)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.stop()

    def __repr__(self) -> str:
        address = "not entered" if self._thread is None else self.url
        return f"<LoopbackLLM {address}, {self.count} requests>"


def _thread_class() -> type[ServerThread]:
    try:
        from asynchistory.testing.uvicorn_thread import ServerThread
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "uvicorn":
            raise
        raise ModuleNotFoundError(
            "LoopbackLLM runs on uvicorn; pip install 'asynchistory[demo]'", name=error.name
        ) from error
    return ServerThread
