"""The manager's care for tool calls without a result, which no provider takes."""

from __future__ import annotations

import msgspec

from asynchistory.checks import check_session_id
from asynchistory.errors import InvalidInputError, SequenceConflictError, SessionNotFoundError
from asynchistory.manager.base import steadily
from asynchistory.manager.fitting import INTERRUPTED, interrupted
from asynchistory.manager.reading import Reading
from asynchistory.manager.writing import Writing
from asynchistory.pairing import ToolPairs, pair_tools
from asynchistory.queries import Appended, HistoryQuery, Version
from asynchistory.records import JSON, Message, ToolCallPart, ToolResultPart
from asynchistory.storage.cursors import make_cursor

#: How often a repair is begun again because something else was appended meanwhile.
_TRIES = 10
#: Messages that are read at a time.
_PAGE = 1000


class PendingToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that has no result yet.

    Attributes:
        seq: the message that it is part of.
        part: its place among that message's parts, from 0.
        id: the call's id, which a later call may have too.
        name: the tool.
        arguments: see :class:`ToolCallPart`.
    """

    seq: int
    part: int
    id: str
    name: str
    arguments: JSON = None


class OrphanToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """A tool result that no call asked for, given as a :class:`PendingToolCall` is."""

    seq: int
    part: int
    id: str
    name: str | None = None


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair did, and what it could not do.

    Attributes:
        answered: the calls that were given an error as their result.
        pending: the calls that were left, because their turn is not over.
        orphans: the results without a call. Nothing that is appended mends them, but
            windows leave them out.
        appended: where the error results stand; None if none was needed.
    """

    answered: tuple[PendingToolCall, ...] = ()
    pending: tuple[PendingToolCall, ...] = ()
    orphans: tuple[OrphanToolResult, ...] = ()
    appended: Appended | None = None


class _Survey(msgspec.Struct, frozen=True):
    """The tool calls and results of a session, as of one moment."""

    version: Version
    messages: list[Message]  # those that have any
    pairs: ToolPairs
    turn: int  # the seq of the newest message that is not a tool's result

    @property
    def pending(self) -> tuple[PendingToolCall, ...]:
        found = []
        for place in self.pairs.unanswered:
            message = self.messages[place.record]
            call = message.parts[place.part]
            assert isinstance(call, ToolCallPart)
            found.append(
                PendingToolCall(
                    seq=message.seq,
                    part=place.part,
                    id=call.id,
                    name=call.name,
                    arguments=call.arguments,
                )
            )
        return tuple(found)

    @property
    def orphans(self) -> tuple[OrphanToolResult, ...]:
        found = []
        for place in self.pairs.orphans:
            message = self.messages[place.record]
            result = message.parts[place.part]
            assert isinstance(result, ToolResultPart)
            found.append(
                OrphanToolResult(seq=message.seq, part=place.part, id=result.id, name=result.name)
            )
        return tuple(found)


class Repairing(Writing, Reading):
    """Tool calls that wait for a result, and those that will never get one."""

    async def pending_tool_calls(self, session_id: str) -> tuple[PendingToolCall, ...]:
        """The tool calls of a session that have no result yet, in order.

        Their tools may be at work, or may have been cut short; :meth:`repair` answers
        those. A result belongs to the nearest unanswered call of its id before it.

        Raises:
            SessionNotFoundError: there is no such session.
        """
        check_session_id(session_id)
        survey = await steadily(lambda: self._survey(session_id))
        return survey.pending

    async def repair(
        self, session_id: str, *, in_progress: bool = False, reason: str = INTERRUPTED
    ) -> Repaired:
        """Make a session that was cut short fit for providers again.

        Each tool call without a result is given one at the end of the session: an error
        that says that it was interrupted. They are one batch, which is stored only if
        nothing was appended since the session was looked at. A second repair changes
        nothing.

        Call it when nobody is at work in the session, such as after a restart. A tool that
        still runs would find its call answered, and its own result would be an orphan.

        Args:
            session_id: the session.
            in_progress: a turn may be under way: leave the calls behind which there is
                nothing but tool results.
            reason: what the model is told.

        Raises:
            SessionNotFoundError: there is no such session.
            SequenceConflictError: others append all the time.
            StorageError: the store failed.
        """
        check_session_id(session_id)
        if not isinstance(reason, str):
            raise InvalidInputError("the reason of a repair is text")
        for _ in range(_TRIES - 1):
            try:
                return await self._repair(session_id, in_progress, reason)
            except SequenceConflictError:
                continue
        return await self._repair(session_id, in_progress, reason)

    async def _repair(self, session_id: str, in_progress: bool, reason: str) -> Repaired:
        survey = await steadily(lambda: self._survey(session_id))
        calls = survey.pending
        over = tuple(call for call in calls if not in_progress or call.seq < survey.turn)
        appended = None
        if over:
            results = [interrupted(call.id, call.name, reason) for call in over]
            appended = await self.append(session_id, *results, expected_seq=survey.version.seq)
        return Repaired(
            answered=over,
            pending=calls[len(over) :],  # they are the newest
            orphans=survey.orphans,
            appended=appended,
        )

    async def _survey(self, session_id: str) -> _Survey:
        # First: then what is appended while the records are read makes a repair begin again.
        version = await self.storage.version(session_id)
        if version is None:
            raise SessionNotFoundError(session_id)
        messages: list[Message] = []
        turn = 0
        cursor: str | None = make_cursor(version.epoch, 0)
        while cursor is not None:
            page = await self.query_history(
                HistoryQuery(session_id, record_types=("message",), after=cursor, limit=_PAGE),
                level=self._current,
            )
            for record in page:
                if isinstance(record, Message):
                    if record.tool_calls or record.tool_results:
                        messages.append(record)
                    if not record.tool_results:
                        turn = record.seq
            cursor = page.next
        return _Survey(version, messages, pair_tools(messages), turn)
