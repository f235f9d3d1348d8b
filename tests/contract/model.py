"""What a history is to its users, as plain lists: the model that stores are held against.

Its methods have the names and arguments of the manager's, answer the same and raise the same. An
epoch is an object whose number is learned from the store's first answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from asynchistory import (
    Appended,
    AsyncHistoryError,
    EpochChangedError,
    HistoryQuery,
    IdempotencyMismatchError,
    InvalidQueryError,
    Message,
    Record,
    Removed,
    SequenceConflictError,
    Session,
    SessionExistsError,
    SessionNotFoundError,
    SessionSummary,
    StoreCounts,
    Truncated,
)
from tests.contract.sums import Call, calls_of


@dataclass(eq=False)
class Epoch:
    number: int | None = None


class Epochs:
    """The numbers that a store gave: each is higher than all before it, and stays what it is."""

    def __init__(self) -> None:
        self.newest = 0

    def learn(self, epoch: Epoch, number: int) -> None:
        if epoch.number is None:
            assert number > self.newest
            self.newest = epoch.number = number
        assert number == epoch.number

    def compare(self, wanted: Any, found: Any) -> None:
        """Hold a store's answer, or the error that it raised, against the model's."""
        if isinstance(wanted, AsyncHistoryError):
            assert (type(found), vars(found)) == (type(wanted), vars(wanted))
            return
        if isinstance(epoch := getattr(wanted, "epoch", None), Epoch):
            self.learn(epoch, found.epoch)
            wanted = replace(wanted, epoch=found.epoch)
        if hasattr(wanted, "updated_at"):
            wanted = replace(wanted, created_at=found.created_at, updated_at=found.updated_at)
        assert found == wanted


def outcome(call: Callable[[], Any]) -> Any:
    """What a call answers, or the error that it raises."""
    try:
        return call()
    except AsyncHistoryError as error:
        return error


@dataclass(eq=False)
class Chat:
    """One session. Sessions that share a record hold the same object."""

    name: str
    number: int
    epoch: Epoch = field(default_factory=Epoch)
    user_id: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    parent: Chat | None = None
    fork_seq: int = 0
    gone: bool = False
    written: bool = True  # since updated_at was looked at
    updated_at: datetime | None = None
    created_at: datetime | None = None
    held: list[Record] = field(default_factory=list)
    keys: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def records(self) -> list[Any]:
        return [
            replace(record, seq=seq, session_id=self.name)
            for seq, record in enumerate(self.held, 1)
        ]

    @property
    def calls(self) -> list[Call]:
        return calls_of(self.name, self.user_id, self.held[self.fork_seq :])

    def session(self) -> Session:
        parent = None if self.parent is None or self.parent.gone else self.parent.name
        return Session(
            id=self.name, user_id=self.user_id, title=self.title, metadata=self.metadata,
            seq=len(self.held), epoch=self.epoch, forked_from=parent, fork_seq=self.fork_seq,
            expires_at=self.expires_at, created_at=self.created_at, updated_at=self.updated_at,
        )  # fmt: skip

    def set(self, **fields: Any) -> None:
        for name, value in fields.items():
            if value is not None:
                setattr(self, name, value)
        self.written = True

    def cut(self, left: int) -> None:
        self.held = self.held[:left]
        self.fork_seq = min(self.fork_seq, left)
        self.epoch, self.written = Epoch(), True

    def once(self, key: str | None, content: Any, change: Callable[[], Any]) -> Any:
        """What the key's first call answered, else what this one does."""
        if key in self.keys:
            known, answer = self.keys[key]
            if known != content:
                raise IdempotencyMismatchError(self.name, key)
            return replace(answer, replayed=True)
        answer = change()
        if key is not None:
            self.keys[key] = (content, answer)
        return answer

    def expect(self, seq: int | None, epoch: int | None = None) -> None:
        if epoch is not None and epoch != self.epoch.number:
            raise EpochChangedError(self.name)
        if seq is not None and seq != len(self.held):
            raise SequenceConflictError(self.name, seq, len(self.held))


class Model:
    """All sessions of a store."""

    def __init__(self) -> None:
        self.chats: dict[str, Chat] = {}
        self.gone: set[str] = set()  # ids that sessions had and none has now
        self.made = 0

    def find(self, session_id: str) -> Chat:
        if session_id not in self.chats:
            raise SessionNotFoundError(session_id)
        return self.chats[session_id]

    def length(self, session_id: str) -> int:
        return len(self.chats[session_id].held) if session_id in self.chats else 0

    # -- writes

    def append(self, session_id: str, *records: Record, **options: Any) -> Appended:
        return self._put("append", session_id, records, **options)

    def replace(self, session_id: str, *records: Record, **options: Any) -> Appended:
        return self._put("replace", session_id, records, **options)

    def _put(
        self,
        operation: str,
        session_id: str,
        records: tuple[Record, ...],
        *,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        chat = self.chats.get(session_id) or Chat(session_id, self.made + 1)

        def change() -> Appended:
            chat.expect(expected_seq)
            if session_id not in self.chats:
                self._add(chat)
            elif operation == "replace":
                chat.cut(0)
            first = len(chat.held) + 1
            # New objects: a call that is repeated brings the same ones again.
            chat.held = [*chat.held, *map(replace, records)]
            chat.written = True
            return Appended(
                session_id=session_id, epoch=chat.epoch, first_seq=first, last_seq=len(chat.held)
            )

        return chat.once(idempotency_key, (operation, *map(_content, records)), change)

    def truncate(
        self, session_id: str, to_seq: int, *, epoch: int | None = None, **options: Any
    ) -> Truncated:
        chat = self.find(session_id)
        left = lambda: min(to_seq, len(chat.held))  # noqa: E731
        return self._cut(chat, ("truncate", to_seq), left, keep=False, epoch=epoch, **options)

    def pop(self, session_id: str, count: int = 1, **options: Any) -> Truncated:
        chat = self.find(session_id)
        left = lambda: max(0, len(chat.held) - count)  # noqa: E731
        return self._cut(chat, ("pop", count), left, keep=True, **options)

    def _cut(
        self,
        chat: Chat,
        content: tuple[str, int],
        left: Callable[[], int],
        *,
        keep: bool,
        epoch: int | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Truncated:
        def change() -> Truncated:
            chat.expect(expected_seq, epoch)
            seq = left()
            removed = chat.records[seq:]
            if removed:
                chat.cut(seq)
            return Truncated(
                session_id=chat.name,
                epoch=chat.epoch,
                seq=seq,
                removed=len(removed),
                records=tuple(removed) if keep else (),
            )

        return chat.once(idempotency_key, content, change)

    # -- sessions

    def create_session(self, session_id: str, *, exist_ok: bool, **fields: Any) -> Session:
        if session_id not in self.chats:
            self._add(Chat(session_id, self.made + 1)).set(**fields)
        elif not exist_ok:
            raise SessionExistsError(session_id)
        return self.chats[session_id].session()

    def update_session(self, session_id: str, **fields: Any) -> Session:
        chat = self.find(session_id)
        if any(value is not None for value in fields.values()):
            chat.set(**fields)
        if chat.expires_at == "never":
            chat.expires_at = None
        return chat.session()

    def fork(
        self,
        session_id: str,
        new_id: str,
        *,
        at_seq: int | None,
        epoch: int | None,
        expires_at: datetime | None,
        **fields: Any,
    ) -> Session:
        parent = self.find(session_id)
        parent.expect(None, epoch)
        seq = len(parent.held) if at_seq is None else at_seq
        if seq > len(parent.held):
            raise InvalidQueryError("at_seq")
        if new_id in self.chats:
            raise SessionExistsError(new_id)
        chat = self._add(Chat(new_id, self.made + 1, parent=parent, fork_seq=seq))
        chat.held = parent.held[:seq]
        if fields["user_id"] not in (None, parent.user_id):
            chat.held = [replace(record) for record in chat.held]
        chat.set(user_id=parent.user_id, title=parent.title, metadata=parent.metadata)
        chat.set(expires_at=expires_at, **fields)
        return chat.session()

    def delete_session(self, session_id: str) -> bool:
        return self._remove([session_id]).sessions == 1

    def erase_user(self, user_id: str) -> Removed:
        return self._remove([chat.name for chat in self.chats.values() if chat.user_id == user_id])

    def prune(self, now: datetime, older_than: datetime | None) -> Removed:
        return self._remove(
            [
                chat.name
                for chat in self.chats.values()
                if (chat.expires_at is not None and chat.expires_at <= now)
                or (older_than is not None and chat.updated_at < older_than)
            ]
        )

    def _add(self, chat: Chat) -> Chat:
        self.made += 1
        self.chats[chat.name] = chat
        self.gone.discard(chat.name)
        return chat

    def _remove(self, names: Iterable[str]) -> Removed:
        before = self.count().records
        gone = [self.chats.pop(name) for name in names if name in self.chats]
        for chat in gone:
            chat.gone = True
            self.gone.add(chat.name)
        return Removed(sessions=len(gone), records=before - self.count().records)

    # -- reads

    def page(self, query: HistoryQuery, cursor: int | None) -> tuple[list[Any], int, int | None]:
        """The query's records, how many match in all, and the seq of the next cursor."""
        found = [record for record in self.find(query.session_id).records if matches(record, query)]
        total = len(found)
        if query.after is not None:
            found = [record for record in found if record.seq > cursor]
        if query.before is not None:
            found = [record for record in found if record.seq < cursor]
        step = -1 if query.newest or query.before is not None else 1
        left = found[::step][query.offset :]
        page, more = left[: query.limit], len(left) > query.limit > 0
        return page[::step], total, page[-1].seq if more else None

    def list_sessions(
        self, user_id: str | None, metadata: dict[str, Any] | None, order: str
    ) -> list[Chat]:
        found = [
            chat
            for chat in self.chats.values()
            if user_id in (None, chat.user_id) and _has(chat.metadata, metadata or {})
        ]
        if order == "created":
            return sorted(found, key=lambda chat: chat.number)
        return sorted(found, key=lambda chat: (chat.updated_at, chat.number), reverse=True)

    def calls(
        self,
        session_id: str | None = None,
        user_id: str | None = None,
        model: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> list[Call]:
        """The calls that statistics with these filters are made of."""
        return [
            call
            for chat in self.chats.values()
            for call in chat.calls
            if session_id in (None, call.session)
            and user_id in (None, call.user)
            and model in (None, call.model)
            and (since or "") <= call.day <= (until or "9")
        ]

    def summary(self, session_id: str) -> SessionSummary:
        chat = self.find(session_id)
        return SessionSummary(session=chat.session(), **_counts(chat.held))

    def count(self) -> StoreCounts:
        """Records that sessions share count once."""
        unique = {id(record): record for chat in self.chats.values() for record in chat.held}
        return StoreCounts(sessions=len(self.chats), **_counts(unique.values()))


def matches(record: Any, query: HistoryQuery) -> bool:
    return (
        (query.record_types is None or record.record_type in query.record_types)
        and (query.model is None or getattr(record, "model", None) == query.model)
        and (query.start_time is None or record.timestamp >= query.start_time)
        and (query.end_time is None or record.timestamp < query.end_time)
    )


def _has(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(
        name in metadata
        and metadata[name] == value
        and isinstance(metadata[name], bool) == isinstance(value, bool)
        for name, value in wanted.items()
    )


def _content(record: Record) -> Record:
    """What makes two calls with one key the same: all but ids and times."""
    return replace(record, record_id="", timestamp=None)


def _counts(records: Iterable[Any]) -> dict[str, Any]:
    records = list(records)
    messages = [record for record in records if isinstance(record, Message)]
    return {
        "records": len(records),
        "record_types": dict(Counter(record.record_type for record in records)),
        "roles": dict(Counter(message.role for message in messages)),
        "tool_calls": sum(len(message.tool_calls) for message in messages),
        "tool_results": sum(len(message.tool_results) for message in messages),
    }
