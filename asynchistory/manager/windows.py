"""The manager's windows: as much of a session as a model is to be sent, fit for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TypeAlias

import msgspec

from asynchistory.cache.tail import Level
from asynchistory.checks import check_limit, check_session_id
from asynchistory.errors import EpochChangedError, InvalidQueryError
from asynchistory.manager.base import Base, steadily
from asynchistory.manager.fitting import Choice, Item, choose, in_place
from asynchistory.manager.tokens import estimate_tokens
from asynchistory.queries import MAX_PAGE, HistoryQuery, Tail
from asynchistory.records import CorruptRecord, Message, StoredRecord
from asynchistory.storage.cursors import make_cursor
from asynchistory.storage.port import Storage

#: Gives the tokens of a message.
CountTokens: TypeAlias = Callable[[Message], int]

#: More tokens than any model takes.
_MOST_TOKENS = 2**53
#: Messages that are read at first to find a session's prompt: mostly one or two are enough.
_PROMPT_PAGE = 10
#: Messages of the second page, and of the largest, when a window goes back beyond the tail.
_PAGE, _LARGEST_PAGE = 100, 1600


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The newest messages of a session, as a model can be sent them.

    Attributes:
        session_id: the session.
        records: the messages, in the order of ``seq``; but a tool's result that was
            recorded later than the message after its call stands right behind its call,
            where providers want it.
        estimated_tokens: about how many tokens they take: by ``count_tokens`` if that
            was given, else by :func:`estimate_tokens`.
        complete: nothing was left out for want of room.
        left_out: the seqs of messages, as far back as the window goes, that no
            provider takes: with calls that have no result, results that have no call,
            and those that hang together with them; and of damaged records. See ``repair``.
        epoch: the session's epoch.
        seq: the session's newest record when this was read, for ``expected_seq``.
        first_seq: the oldest of the messages, the prompt aside; 0 if there is none.
        last_seq: the newest of them; 0 if there is none.
    """

    session_id: str
    records: tuple[Message, ...]
    estimated_tokens: int
    complete: bool
    left_out: tuple[int, ...]
    epoch: int
    seq: int
    first_seq: int = 0
    last_seq: int = 0

    def __iter__(self) -> Iterator[Message]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    session_id: str
    depth: int  # records that are looked at first
    room: int
    cost: CountTokens
    tokens: CountTokens
    keep_system: bool
    from_user: bool


class _Messages:
    """A session's messages from the newest backwards, read as far as they are asked for."""

    def __init__(self, storage: Storage, session_id: str, tail: Tail) -> None:
        self.items: list[Item] = _items(tail.records)
        self.epoch: int = tail.version.epoch
        self._storage = storage
        self._session_id = session_id
        oldest = tail.records[0].seq if tail.records else 1
        self._before = make_cursor(self.epoch, oldest) if oldest > 1 else None
        self._size = _PAGE

    @property
    def begins(self) -> bool:
        """Whether these are all that the session has."""
        return self._before is None

    async def go_back(self) -> None:
        """Read some more."""
        page = await self._storage.read(
            HistoryQuery(
                self._session_id,
                record_types=("message",),
                before=self._before,
                limit=self._size,
            )
        )
        self.items[:0] = _items(page.records)
        self._before = page.next
        self._size = min(2 * self._size, _LARGEST_PAGE)

    async def prompt(self) -> list[Message]:
        """The system and developer messages that the session begins with."""
        if self.begins:
            return [item for item in takewhile(_instructs, self.items) if isinstance(item, Message)]
        found: list[Message] = []
        cursor: str | None = make_cursor(self.epoch, 0)
        while cursor is not None:
            page = await self._storage.read(
                HistoryQuery(
                    self._session_id, record_types=("message",), after=cursor, limit=_PROMPT_PAGE
                )
            )
            for record in page:
                if not isinstance(record, Message) or not _instructs(record):
                    return found
                found.append(record)
            cursor = page.next
        return found


class Windows(Base):
    """What of a session a model is to be sent."""

    async def window(
        self,
        session_id: str,
        *,
        last: int | None = None,
        max_tokens: int | None = None,
        keep_system: bool = True,
        from_user: bool = False,
        count_tokens: CountTokens | None = None,
        level: Level | None = None,
    ) -> Window:
        """The newest messages of a session that fit, in a form that providers take.

        It holds messages alone, at most ``last`` of them or about ``max_tokens`` tokens,
        and never a tool call without its result. A message with tool calls, the messages
        with their results and what lies between them are in it all together or not at all.
        The window is the longest that is possible by these rules: it ends with the newest
        message and begins as early as it can.

        Left out are messages that providers refuse: those with a call that has no result,
        be it that its tool is still at work (see :meth:`pending_tool_calls`) or never came
        to its end (see :meth:`repair`), and with a result that has no call; and with them
        the other messages of their group. They take no room; ``left_out`` names them.

        It is read from the cached tail, and further back only as far as it takes. A
        result without a call among its messages takes it back to the session's beginning.

        Args:
            session_id: the session.
            last: at most so many messages, 1 to 10,000. This or ``max_tokens`` is given.
            max_tokens: at most so many tokens, as they are counted.
            keep_system: begin with the system and developer messages that the session
                begins with. They count, and have their room before the others: if they
                alone are too large, the window is empty.
            from_user: begin with a user's message (after those), as some providers
                ask for. A long turn then fits as a whole or not at all.
            count_tokens: gives a message's tokens, 0 or more; :func:`estimate_tokens`
                if left out.
            level: how current the newest messages are; see :data:`Level`.

        Raises:
            SessionNotFoundError: there is no such session.
            InvalidQueryError: not exactly one of ``last`` and ``max_tokens`` is given, or
                it is not a number of at least 1.
        """
        check_session_id(session_id)
        room = _room(last, max_tokens)
        tokens = _remembering(count_tokens or estimate_tokens)
        wish = _Wish(
            session_id=session_id,
            depth=max(self.cache.depth, last or 0),
            room=room,
            cost=tokens if last is None else lambda _message: 1,
            tokens=tokens,
            keep_system=keep_system,
            from_user=from_user,
        )
        level = self._level(level)
        return await steadily(lambda: self._window(wish, level))

    async def _window(self, wish: _Wish, level: Level) -> Window:
        tail = await self.cache.tail(self.storage, wish.session_id, wish.depth, level)
        source = _Messages(self.storage, wish.session_id, tail)
        try:
            prompt = await source.prompt() if wish.keep_system else []
            room = wish.room - sum(map(wish.cost, prompt))
            if room < 0:
                return _made(wish, tail, [], [], Choice(0, frozenset()), complete=False)
            start = prompt[-1].seq if prompt else 0
            while True:
                body = [item for item in source.items if item.seq > start]
                choice = choose(
                    body, wish.cost, room, begins=source.begins, from_user=wish.from_user
                )
                if choice is not None:
                    return _made(wish, tail, prompt, body, choice, complete=source.begins)
                await source.go_back()
        except EpochChangedError:
            self.cache.drop(wish.session_id)  # a tail of level ``cached`` may be an old one
            raise


def _made(
    wish: _Wish,
    tail: Tail,
    prompt: list[Message],
    body: list[Item],
    choice: Choice,
    *,
    complete: bool,
) -> Window:
    chosen: list[Message] = []
    left_out: list[int] = []
    for index, item in enumerate(body[choice.start :], choice.start):
        if isinstance(item, Message) and index not in choice.refused:
            chosen.append(item)
        else:
            left_out.append(item.seq)
    records = (*prompt, *in_place(chosen))
    return Window(
        session_id=wish.session_id,
        records=records,
        estimated_tokens=sum(map(wish.tokens, records)),
        complete=complete and choice.start == 0,
        left_out=tuple(left_out),
        epoch=tail.version.epoch,
        seq=tail.version.seq,
        first_seq=chosen[0].seq if chosen else 0,
        last_seq=chosen[-1].seq if chosen else 0,
    )


def _room(last: int | None, max_tokens: int | None) -> int:
    if last is not None and max_tokens is None:
        room, what, most = last, "last", MAX_PAGE
    elif max_tokens is not None and last is None:
        room, what, most = max_tokens, "max_tokens", _MOST_TOKENS
    else:
        raise InvalidQueryError("a window takes either last=, messages, or max_tokens=")
    check_limit(room, what, most)
    if room < 1:
        raise InvalidQueryError(f"{what} must be at least 1")
    return room


def _remembering(tokens: CountTokens) -> CountTokens:
    """Asks for the tokens of a message once, however often it is looked at."""
    known: dict[str, int] = {}

    def count(message: Message) -> int:
        if message.record_id not in known:
            known[message.record_id] = tokens(message)
        return known[message.record_id]

    return count


def _items(records: tuple[StoredRecord, ...]) -> list[Item]:
    return [record for record in records if isinstance(record, (Message, CorruptRecord))]


def _instructs(item: Item) -> bool:
    return (
        isinstance(item, Message)
        and item.role in ("system", "developer")
        and not (item.tool_calls or item.tool_results)
    )
