"""Conversations into the store, many at a time and in their order."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asynchistory.archive import Archived
from asynchistory.cli.conversations import Conversation, conversation_of
from asynchistory.cli.output import count
from asynchistory.cli.sources import Item
from asynchistory.codec import encode_record
from asynchistory.errors import (
    AsyncHistoryError,
    IdempotencyMismatchError,
    InvalidInputError,
    SequenceConflictError,
    StorageError,
)
from asynchistory.manager import AsyncHistoryManager
from asynchistory.manager.importing import bring
from asynchistory.pairing import pair_tools
from asynchistory.queries import HistoryQuery
from asynchistory.records import Message, Record

#: So many conversations share a commit, unless they are large.
WINDOW = 50
WINDOW_BYTES = 16 * 1024 * 1024


class _Entry:
    """A conversation on its way, and what became of it."""

    def __init__(self, file: str, item: Item, conversation: Conversation | Archived) -> None:
        self.file = file
        self.place = item.place
        self.conversation = conversation
        self.already_there = False
        self.error: AsyncHistoryError | None = None


class Importer:
    """Checks conversations in the caller's thread while a loop beside it stores those before.

    Reading happens outside of the event loop, so that Ctrl-C ends a wait for
    standard input. Nothing is opened before there is something to store.

    Attributes:
        tally: what was imported so far.
        faults: what was not, and why.
    """

    def __init__(self, history: AsyncHistoryManager) -> None:
        self.history = history
        self.faults: list[str] = []
        self.tally: dict[str, int] = dict.fromkeys(
            (
                "sessions",
                "messages",
                "tool_results",
                "tool_results_tied",
                "already_there",
                "broken",
            ),
            0,
        )
        self._exits = ExitStack()
        self._portal: BlockingPortal | None = None
        self._window: list[_Entry] = []
        self._bytes = 0
        self._pending: Future[list[_Entry]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            # The portal sees the error, and cancels what is under way instead of waiting for it.
            self._exits.__exit__(exc_type, exc_value, traceback)
            return
        with self._exits:
            self._flush()
            self._collect()

    def add(self, file: str, item: Item, seen: Counter[str]) -> None:
        """Take a conversation, or note why it cannot be taken."""
        try:
            conversation = conversation_of(item.content, seen)
        except InvalidInputError as error:
            self.fault(file, item.place, str(error))
            self.tally["broken"] += 1
            return
        if isinstance(conversation, Archived) and conversation.damaged:
            missing = count(conversation.damaged, "record")
            self.fault(file, item.place, f"{missing} left out, damaged when this was exported")
        self._window.append(_Entry(file, item, conversation))
        self._bytes += item.size
        if len(self._window) >= WINDOW or self._bytes >= WINDOW_BYTES:
            self._flush()

    def fault(self, file: str, place: str, reason: str) -> None:
        """Note what could not be imported."""
        self.faults.append(": ".join(filter(None, (file, place, reason))))

    def _flush(self) -> None:
        """Start to store what was gathered, once what was started before is stored."""
        self._collect()
        window, self._window, self._bytes = self._window, [], 0
        if window:
            self._pending = self._opened().start_task_soon(_store, self.history, window)

    def _opened(self) -> BlockingPortal:
        if self._portal is None:
            # Interrupted half way into this, AnyIO waits for ever for the loop that it started.
            with _interrupt_held():
                self._portal = self._exits.enter_context(start_blocking_portal("asyncio"))
            opened = self._portal.wrap_async_context_manager(self.history)
            self._exits.enter_context(opened)
        return self._portal

    def _collect(self) -> None:
        pending, self._pending = self._pending, None
        for entry in pending.result() if pending is not None else ():
            if isinstance(entry.error, StorageError):
                raise entry.error
            self._count(entry)

    def _count(self, entry: _Entry) -> None:
        tally, records = self.tally, entry.conversation.records
        if entry.error is not None:
            self.fault(entry.file, entry.place, str(entry.error))
            tally["broken"] += 1
        elif entry.already_there:
            tally["already_there"] += 1
        else:
            pairs = pair_tools(records)
            tally["sessions"] += 1
            tally["messages"] += sum(isinstance(record, Message) for record in records)
            tally["tool_results"] += len(pairs.pairs) + len(pairs.orphans)
            tally["tool_results_tied"] += len(pairs.pairs)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


async def _store(history: AsyncHistoryManager, window: list[_Entry]) -> list[_Entry]:
    # Sessions are queued in the order in which these tasks start, which asyncio keeps (trio
    # shuffles it), and made in the order in which they are queued.
    async with anyio.create_task_group() as tasks:
        for entry in window:
            tasks.start_soon(_create, history, entry)
    async with anyio.create_task_group() as tasks:
        for entry in window:
            tasks.start_soon(_append, history, entry)
    return window


async def _create(history: AsyncHistoryManager, entry: _Entry) -> None:
    wanted = entry.conversation
    try:
        if isinstance(wanted, Archived):
            entry.already_there = not await bring(history, wanted)
        else:
            await history.create_session(wanted.session_id, metadata=wanted.metadata, exist_ok=True)
    except AsyncHistoryError as error:
        entry.error = error


async def _append(history: AsyncHistoryManager, entry: _Entry) -> None:
    if entry.error is not None or isinstance(entry.conversation, Archived):
        return
    session_id, key, records, _ = entry.conversation
    try:
        appended = await history.append(session_id, *records, idempotency_key=key, expected_seq=0)
        entry.already_there = appended.replayed
    except IdempotencyMismatchError:
        # The key stands for what the file says: only how it is stored differs, by another version.
        entry.already_there = True
    except SequenceConflictError:
        await _compare(history, entry, entry.conversation)
    except AsyncHistoryError as error:
        entry.error = error


async def _compare(history: AsyncHistoryManager, entry: _Entry, wanted: Conversation) -> None:
    """The session has records that came another way: are they these?"""
    session_id, _, records, _ = wanted
    entry.already_there = True
    after, place = None, 0
    while place < len(records):
        query = HistoryQuery(session_id, limit=1_000, after=after)
        page = await history.query_history(query, level="fresh")
        for there, record in zip(page, records[place:], strict=False):
            entry.already_there &= isinstance(there, Record) and _same(there, record)
        place += len(page)
        if (after := page.next) is None:
            break
    if place < len(records) or not entry.already_there:
        entry.already_there = False
        entry.error = InvalidInputError(
            f"conversation {session_id!r} exists with other records; remove it first "
            f"(asynchistory rm) or import into another database (--db)"
        )


def _same(one: Record, other: Record) -> bool:
    return encode_record(one).body == encode_record(other).body
