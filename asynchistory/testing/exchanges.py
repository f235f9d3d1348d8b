"""One request and its answer, over ASGI: played as told, with all that may go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from asynchistory.testing.replies import ErrorAnswer, Fault, Reply
from asynchistory.testing.wire import Format, to_json

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

#: An ASGI extension of our server: a function that closes the connection behind what was sent.
HANG_UP = "asynchistory.hang_up"
_EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
#: How many bytes more ``content-length`` promises than there are.
_MISSING = 100


class Exchange:
    """Answers one request.

    Args:
        number: of the request on this server, from 1.
        wire: the provider's format.
        scope: ASGI's.
        send: ASGI's.
    """

    def __init__(self, number: int, wire: Format, scope: Scope, send: Send) -> None:
        self.number = number
        self._wire = wire
        self._scope = scope
        self._send = send

    async def answer_json(self, value: Any, status: int = 200) -> None:
        """Answer with JSON in one piece."""
        body = to_json(value)
        await self._start(status, {"content-length": str(len(body))})
        await self._write(body, more=False)

    async def answer_error(self, answer: ErrorAnswer) -> None:
        """Answer with an error in the provider's shape."""
        body = to_json(self._wire.error_body(self.number, answer))
        headers = {"content-length": str(len(body)), **answer.headers}
        await self._start(answer.status, headers)
        await self._write(body, more=False)

    async def play(self, request: Mapping[str, Any], answer: Reply | Fault) -> None:
        """Give this answer, or let go wrong what shall go wrong."""
        fault = answer if isinstance(answer, Fault) else None
        if fault is not None and fault.kind == "hang":
            await self._hang(fault)
        elif fault is not None and fault.kind == "error" and fault.error is not None:
            await self.answer_error(fault.error)
        else:
            reply = fault.reply if fault else answer
            assert isinstance(reply, Reply), "an answer is a Reply or a Fault"
            play = self._stream if request.get("stream") else self._whole
            await play(request, reply, fault)

    # -- in one piece

    async def _whole(self, request: Mapping[str, Any], reply: Reply, fault: Fault | None) -> None:
        if reply.gate is not None:
            await reply.gate.go_through()
        body = to_json(self._wire.body(self.number, request, reply))
        kind = fault.kind if fault else None
        if kind == "error_event" and fault is not None and fault.error is not None:
            await self.answer_error(fault.error)
        elif kind == "malformed":
            broken = self._wire.broken_body
            await self._start(200, {"content-length": str(len(broken))})
            await self._write(broken, more=False)
        elif kind == "cut":
            await self._start(200, {"content-length": str(len(body))})
            await self._write(body[: len(body) // 2])
            await self._hang_up()
        elif kind == "wrong_length":
            await self._start(200, {"content-length": str(len(body) + _MISSING)})
            await self._write(body)
            await self._hang_up()
        else:
            await self._start(200, {"content-length": str(len(body))})
            await self._write(body, more=False)

    # -- as a stream

    async def _stream(self, request: Mapping[str, Any], reply: Reply, fault: Fault | None) -> None:
        events = self._wire.events(self.number, request, reply)
        last = len(events) - 1
        headers = dict(_EVENT_STREAM)
        promised_more = fault is not None and fault.kind == "wrong_length"
        if promised_more:
            headers["content-length"] = str(len(b"".join(events)) + _MISSING)
        await self._start(200, headers)
        goes_wrong = min(fault.after, last) if fault else None
        gate_at = min(reply.gate_after, last)
        for position, event in enumerate(events):
            if reply.gate is not None and position == gate_at:
                await reply.gate.go_through()
            if position == goes_wrong and fault is not None:
                await self._go_wrong(fault)
            await self._write(event, more=position < last or promised_more)
        if promised_more:
            await self._hang_up()

    async def _go_wrong(self, fault: Fault) -> None:
        """What happens in the middle of a stream; after some of it the stream goes on."""
        if fault.kind == "cut":
            await self._hang_up()
        elif fault.kind == "malformed":
            await self._write(self._wire.broken_event)
        elif fault.kind == "error_event" and fault.error is not None:
            await self._write(self._wire.error_event(self.number, fault.error))

    # -- what both are made of

    async def _hang(self, fault: Fault) -> None:
        assert fault.gate is not None, "Fault.hang gives it one"
        await fault.gate.go_through()
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Close the connection; what waits for its end then cancels this task."""
        self._scope["extensions"][HANG_UP]()
        await anyio.sleep_forever()

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        every = {
            "content-type": "application/json",
            self._wire.request_id: f"req_{self.number}",
            **headers,
        }
        raw = [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in every.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        if more:  # after the last piece the answer counts as given, without another await
            await anyio.lowlevel.checkpoint()
