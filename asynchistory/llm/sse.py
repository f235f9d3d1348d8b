"""Server-sent events: the data of each event in a stream of bytes."""

from __future__ import annotations

import re

from asynchistory.errors import LLMResponseError

#: What one event may take, so that a server that never ends one does not fill the memory.
MAX_EVENT_BYTES = 16 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class EventParser:
    """Takes a stream apart, as https://html.spec.whatwg.org/multipage/server-sent-events.html says.

    Lines end with LF, CR LF or CR and with nothing else: a decoder of text would
    also cut at U+2028, which JSON may hold as it is.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk.

        Raises:
            LLMResponseError: an event takes more than 16 MiB.
        """
        self._rest += chunk
        if not self._begun and len(self._rest) >= 3:
            self._begun = True
            self._rest = self._rest.removeprefix(b"\xef\xbb\xbf")
        # A CR at the end may be half of a CR LF: it waits for what comes next.
        *lines, self._rest = _LINE_END.split(self._rest)
        events = [event for line in lines if (event := self._take(line)) is not None]
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise LLMResponseError("the server sent an event of more than 16 MiB")
        return events

    def end(self) -> list[bytes]:
        """The data of an event that the end of the stream ends."""
        lines = [self._rest.removesuffix(b"\r"), b""]
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise LLMResponseError("the server sent an event of more than 16 MiB")
        return None
