"""The APIs of OpenAI and Anthropic as an ASGI application that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio

from asynchistory.testing.anthropic_wire import AnthropicFormat
from asynchistory.testing.exchanges import Event, Exchange, Receive, Scope, Send
from asynchistory.testing.openai_wire import OpenAIFormat
from asynchistory.testing.replies import Answer, ErrorAnswer, Fault, Reply, Script
from asynchistory.testing.signals import Signal
from asynchistory.testing.wire import Format, RefusedError

_OPENAI, _ANTHROPIC = OpenAIFormat(), AnthropicFormat()
#: What there is, and how it is asked for.
_METHODS = {"/v1/models": "GET", "/v1/chat/completions": "POST", "/v1/messages": "POST"}
_SECRETS = {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"}
#: A mistake in the script: the client shall report it and not try again.
_DO_NOT_RETRY = {"x-should-retry": "false"}


class _Secret(str):
    """A header's value that stays out of every repr, and so out of failing tests' output."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(eq=False)
class ReceivedRequest:
    """A request as it reached the server.

    Attributes:
        number: 1 for the server's first.
        method: such as ``POST``.
        path: such as ``/v1/chat/completions``.
        headers: by their names in lower case; the repr leaves secrets out.
        body: the parsed JSON, None if there is none.
        ended: set when it is answered, or its connection has ended.
        answered: whether all of the answer was sent; final once ``ended`` is set.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    ended: Signal = field(default_factory=Signal, repr=False)
    answered: bool = False


class LoopbackApp:
    """The application; :class:`~asynchistory.testing.LoopbackLLM` runs it.

    Requests that the API would refuse are refused, and use up nothing of the
    script. A script that has come to its end answers 500.

    Args:
        script: what is answered; None repeats what the user said last. A callable is given
            the request's JSON. It runs in the server's event loop, so it must not block.
        api_key: the one key that is accepted; None accepts all.
    """

    def __init__(self, script: Script | None = None, *, api_key: str | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        self._api_key = api_key
        self._answer = _answers(_echo if script is None else script)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, as ASGI 3 wants it."""
        body = await _read_body(receive)
        if body is None:
            return
        request = self._record(scope, body)
        exchange = Exchange(request.number, _format_of(request), scope, send)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_at_end, receive, group.cancel_scope.cancel)
                await self._reply_to(request, exchange)
                request.answered = True
                group.cancel_scope.cancel()
        finally:
            request.ended.set()

    def _record(self, scope: Scope, body: bytes) -> ReceivedRequest:
        headers = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = _Secret(value) if name in _SECRETS else value
        number = len(self.requests) + 1
        request = ReceivedRequest(number, scope["method"], scope["path"], headers, _parse(body))
        self.requests.append(request)
        return request

    async def _reply_to(self, request: ReceivedRequest, exchange: Exchange) -> None:
        wire = _format_of(request)
        try:
            wire.check_key(request.headers, self._api_key)
            if _is_models(request):
                await exchange.answer_json(wire.models())
                return
            wire.check_request(request.body, request.headers)
            answer = self._next(request.body)
        except RefusedError as error:
            await exchange.answer_error(error.answer)
        else:
            await exchange.play(request.body, answer)

    def _next(self, request: dict[str, Any]) -> Answer:
        try:
            answer = self._answer(request)
        except StopIteration:
            raise _mistake("the script has no further reply") from None
        except Exception as error:
            raise _mistake(f"the script raised {type(error).__name__}: {error}") from error
        if not isinstance(answer, Reply | Fault):
            raise _mistake(f"the script gave a {type(answer).__name__}, not a Reply or Fault")
        return answer


def _format_of(request: ReceivedRequest) -> Format:
    """Anthropic's for its clients, all of which say which version of the API they mean."""
    theirs = request.path == "/v1/messages" or "anthropic-version" in request.headers
    return _ANTHROPIC if theirs else _OPENAI


def _parse(body: bytes) -> Any:
    """The body's JSON, None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_models(request: ReceivedRequest) -> bool:
    """Whether the models are asked for; refuses all but the endpoints there are."""
    allowed = _METHODS.get(request.path)
    if allowed is None:
        message = f"Invalid URL ({request.method} {request.path})"
        raise RefusedError(ErrorAnswer(404, message))
    if request.method != allowed:
        message = f"Not allowed to {request.method} on {request.path}"
        raise RefusedError(ErrorAnswer(405, message, headers={"allow": allowed}))
    return allowed == "GET"


def _mistake(message: str) -> RefusedError:
    return RefusedError(ErrorAnswer(500, message, "loopback_error", headers=_DO_NOT_RETRY))


def _answers(script: Script) -> Callable[[dict[str, Any]], Answer]:
    if isinstance(script, Reply | Fault):
        return lambda request: script
    if isinstance(script, Iterable):
        answers: Iterator[Answer] = iter(script)
        return lambda request: next(answers)
    return script


def _echo(request: dict[str, Any]) -> Reply:
    said = [message for message in request["messages"] if message["role"] == "user"]
    text = _text(said[-1].get("content")) if said else ""
    return Reply(f"You said: {text}")


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return str(content)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, None if the client left before it was sent."""
    body = bytearray()
    while True:
        event: Event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if not event.get("more_body"):
            return bytes(body)


async def _cancel_at_end(
    receive: Callable[[], Awaitable[Event]], cancel: Callable[[], None]
) -> None:
    """Cancel the answer when the client has left or the connection was closed."""
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel()
