"""Server-sent events: the data of each event in a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from asynchistory.errors import LLMResponseError

#: What one event may take, so that a server that never ends one does not fill the memory.
MAX_EVENT_BYTES = 16 * 1024 * 1024


async def event_data(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event, as https://html.spec.whatwg.org/multipage/server-sent-events.html.

    Lines end with LF, CR LF or CR and with nothing else: a decoder of text would
    also cut at U+2028, which JSON may hold as it is.

    Raises:
        LLMResponseError: an event takes more than 16 MiB.
    """
    data: list[bytes] = []
    async for line in _lines(chunks):
        if not line:
            if data:
                yield b"\n".join(data)
                data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in chunks:
        rest += chunk
        if len(rest) > MAX_EVENT_BYTES:
            raise LLMResponseError("the server sent an event of more than 16 MiB")
        *lines, rest = rest.replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
