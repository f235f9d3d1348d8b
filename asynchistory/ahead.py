"""A stream, read ahead of a slow reader."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from asynchistory.errors import NotOpenError

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Reads a stream, such as :class:`Watch`, a few items ahead and hands them over together.

    One task enters, reads and leaves it, as its cancel scopes need it, whatever tasks call this.
    All of its methods belong to one event loop.

    Args:
        stream: to be entered with ``async with`` and iterated.
        most: so many items are read ahead, and as many handed over at once.
    """

    def __init__(
        self, stream: AbstractAsyncContextManager[AsyncIterator[T]], most: int = 64
    ) -> None:
        self.stream: AbstractAsyncContextManager[AsyncIterator[T]] = stream
        self.most: int = most
        self._error: BaseException | None = None
        self._whole = False

    async def open(self, tasks: TaskGroup) -> None:
        """Enter the stream and read it in a task of this group."""
        self._send, self._receive = anyio.create_memory_object_stream[T](self.most)
        self._scope, self._ended = anyio.CancelScope(), anyio.Event()
        try:
            await tasks.start(self._run)
        except BaseException:
            self._receive.close()
            if self._ended.is_set():
                self._check()  # why it has ended before it began
            raise

    async def take(self) -> list[T]:
        """The next items, one at least; none at the end."""
        items: list[T] = []
        try:
            items.append(await self._receive.receive())
            while len(items) < self.most:
                items.append(self._receive.receive_nowait())
        except (anyio.EndOfStream, anyio.WouldBlock, anyio.ClosedResourceError):
            if not items:
                self._check()
        return items

    def drop(self) -> None:
        """Stop reading, and wait for nothing."""
        self._scope.cancel()
        self._receive.close()

    async def aclose(self) -> None:
        """Stop reading and leave the stream."""
        self.drop()
        await self._ended.wait()
        self._check()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            async with self.stream as items:
                task_status.started()
                with self._scope:
                    await self._read(items)
            self._whole = True
        except anyio.get_cancelled_exc_class():
            self._receive.close()
            raise
        except BaseException as error:
            self._error = error  # for who reads; the group is not ended by it
        finally:
            self._send.close()
            self._ended.set()

    async def _read(self, items: AsyncIterator[T]) -> None:
        async for item in items:
            try:
                self._send.send_nowait(item)
            except anyio.WouldBlock:
                await self._send.send(item)

    def _check(self) -> None:
        """Raise what reading has raised, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                self._whole = True  # now that it is told, there is nothing more
                raise error
            if self._ended.is_set() and not self._whole:
                raise NotOpenError("the event loop has ended where this stream was read")
        finally:
            del error  # its traceback refers to this frame
