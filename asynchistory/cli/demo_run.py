"""What the demo does: one manager, one LLM instance a model, callers of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import eq
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import uuid4

import anyio
import click

from asynchistory.cli.demo_talk import (
    PROMPT,
    TOOLS,
    model_of,
    price_of,
    questions,
    user_of,
)
from asynchistory.conversation import Conversation
from asynchistory.llm.factory import LLMFactory
from asynchistory.llm.key import ClientKey
from asynchistory.llm.port import LLMClient
from asynchistory.manager import AsyncHistoryManager
from asynchistory.queries import MAX_PAGE, Appended, HistoryQuery
from asynchistory.records import AnyRecord, Message, StoredRecord
from asynchistory.testing import LoopbackLLM
from asynchistory.turn import DoneEvent, Event, UsageEvent
from asynchistory_compat import (
    BlockingInLoopWarning,
    Conversation as SyncConversation,
    HistoryManager,
)

T = TypeVar("T")

CONVERSATIONS = 100
THREADS = 10
#: The child is killed once it has said so many times that something is stored.
ACKNOWLEDGEMENTS = 400


class Phase(NamedTuple):
    """Conversations that were held in one way."""

    name: str
    conversations: int
    requests: int
    appends: int
    seconds: float


class Kill(NamedTuple):
    """What a killed process had been told is stored, and what of that is not."""

    acknowledged: int
    lost: int


class Heard(NamedTuple):
    """What the callers were told, which has to be what is recorded.

    Attributes:
        answers: the model's answers, by conversation.
        tokens: those of each model call, sent and received.
        instances: the LLM instances that conversations were given, by configuration.
    """

    answers: defaultdict[str, list[str]]
    tokens: list[tuple[int, int]]
    instances: defaultdict[ClientKey, list[LLMClient]]


class CountedHistory(AsyncHistoryManager):
    """A manager that counts its appends."""

    def __init__(self, history: AsyncHistoryManager) -> None:
        super().__init__(history.storage, history.cache, level=history.level)
        self.appends: list[int] = []

    async def append(
        self,
        session_id: str,
        *records: AnyRecord,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        """See :class:`AsyncHistoryManager`."""
        appended = await super().append(
            session_id, *records, idempotency_key=idempotency_key, expected_seq=expected_seq
        )
        self.appends.append(len(records))  # whichever thread it is in
        return appended


class Demo:
    """The steps of the demo. Manager and factory are one object each, for every loop and thread.

    Args:
        history: the manager, over a database file.
        sync: the same manager for synchronous code, opened.
        server: the model, running.
    """

    def __init__(self, history: CountedHistory, sync: HistoryManager, server: LoopbackLLM) -> None:
        self.history = history
        self.sync = sync
        self.server = server
        self.factory: LLMFactory = LLMFactory()
        self.heard: Heard = Heard(defaultdict(list), [], defaultdict(list))
        #: Answers that are not in the history.
        self.lost: int = 0
        # The demo can be run again and again over one database.
        self.prefix: str = f"demo-{uuid4().hex[:6]}"

    def session_id(self, kind: str, number: int = 0) -> str:
        """The id of a conversation of the demo."""
        return f"{self.prefix}-{kind}-{number:02}"

    # -- conversations

    def in_loop(self, backend: Literal["asyncio", "trio"]) -> Phase:
        """All conversations at once, a task each, in an event loop of this kind."""
        phase = self._timed(
            backend, lambda: anyio.run(self._converse_all, backend, backend=backend)
        )
        anyio.run(self._check_all, backend, backend=backend)
        return phase

    async def _converse_all(self, kind: str) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(CONVERSATIONS):
                tasks.start_soon(self._converse, kind, number)

    async def _converse(self, kind: str, number: int) -> None:
        options = self._options(kind, number)
        async with Conversation(self.history, factory=self.factory, **options) as conversation:
            self._given(conversation.llm)
            for question in questions(number):
                async with conversation.send(question) as events:
                    async for event in events:
                        self._hear(conversation.session_id, event)

    async def _check_all(self, kind: str) -> None:
        for number in 2 * [*range(CONVERSATIONS)]:
            session_id = self.session_id(kind, number)
            self._check(session_id, await self.history.last(session_id, 100))

    def in_threads(self) -> Phase:
        """As many conversations from plain threads, which know of no event loop."""
        phase = self._timed("threads", self._converse_in_threads)
        for number in 2 * [*range(CONVERSATIONS)]:
            session_id = self.session_id("threads", number)
            self._check(session_id, self.sync.last(session_id, 100))
        return phase

    def _converse_in_threads(self) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            # list() brings the error of a thread that failed here.
            list(threads.map(self._converse_some, range(THREADS)))

    def _converse_some(self, first: int) -> None:
        for number in range(first, CONVERSATIONS, THREADS):
            options = self._options("threads", number)
            with SyncConversation(self.sync, factory=self.factory, **options) as conversation:
                self._given(conversation.llm)
                for question in questions(number):
                    for event in conversation.send(question):
                        self._hear(conversation.session_id, event)

    def _options(self, kind: str, number: int) -> dict[str, Any]:
        return {
            "provider": "openai",
            "model": model_of(number),
            "base_url": self.server.url,
            "api_key": "demo",  # and not the user's own, of the environment
            "session_id": self.session_id(kind, number),
            "user_id": user_of(number),
            "prompt": PROMPT,
            "tools": TOOLS,
            "price": price_of,
        }

    def _timed(self, name: str, converse: Callable[[], object]) -> Phase:
        requests, appends = self.server.count, len(self.history.appends)
        begin = time.perf_counter()
        converse()
        seconds = time.perf_counter() - begin
        requests, appends = self.server.count - requests, len(self.history.appends) - appends
        return Phase(name, CONVERSATIONS, requests, appends, round(seconds, 3))

    # -- what was heard, and what of it is recorded

    def _given(self, llm: LLMClient) -> None:
        self.heard.instances[llm.key].append(llm)

    def _hear(self, session_id: str, event: Event) -> None:
        match event:
            case UsageEvent():
                usage = event.usage
                self.heard.tokens.append((usage.input_tokens or 0, usage.output_tokens or 0))
            case DoneEvent():
                self.heard.answers[session_id].append(event.message.text)

    def _check(self, session_id: str, records: Sequence[StoredRecord]) -> None:
        recorded = [
            record.text
            for record in records
            if isinstance(record, Message) and record.role == "assistant" and record.text
        ]
        heard = self.heard.answers[session_id]
        self.lost += max(len(heard), len(recorded)) - sum(map(eq, heard, recorded))

    def instances_of_a_key(self) -> int:
        """How many LLM instances any one configuration had: the most there were."""
        return max(len(set(map(id, given))) for given in self.heard.instances.values())

    def recorded(self, groups: dict[str, T]) -> list[T]:
        """Of statistics by session, those of the demo's own conversations."""
        return [found for name, found in groups.items() if name.startswith(f"{self.prefix}-")]

    # -- further steps

    def inside_a_loop(self) -> int:
        """A synchronous call where a loop is running: the one that asyncio.run cannot make."""

        async def caller() -> int:
            query = HistoryQuery(self.session_id("asyncio"), limit=50)
            with warnings.catch_warnings():
                # It blocks the loop while it waits, and says so. Here that is the point.
                warnings.simplefilter("ignore", BlockingInLoopWarning)
                return len(self.sync.query_history(query))

        return anyio.run(caller)

    def kill_a_writer(self, path: Path) -> Kill:
        """SIGKILL for a process in the midst of writing; then count what it was promised."""
        prefix = f"{self.prefix}-killed"
        acknowledged = _acknowledgements(path, prefix)
        lost = sum(self._missing(session_id, seqs) for session_id, seqs in acknowledged.items())
        return Kill(sum(map(len, acknowledged.values())), lost)

    def _missing(self, session_id: str, seqs: set[int]) -> int:
        there: set[int] = set()
        after: str | None = None
        while True:
            query = HistoryQuery(session_id, limit=MAX_PAGE, after=after)
            page = self.sync.query_history(query, level="fresh")
            for record in page:
                if isinstance(record, Message) and record.text == f"message {record.seq}":
                    there.add(record.seq)
            if (after := page.next) is None:
                return len(seqs - there)


def _acknowledgements(path: Path, prefix: str) -> dict[str, set[int]]:
    program = [sys.executable, "-m", "asynchistory.cli.demo_child", str(path), prefix]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found: defaultdict[str, set[int]] = defaultdict(set)
    received = 0
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        try:
            for line in iter(child.stdout.readline, b""):
                session_id, seq = line.split()
                found[session_id.decode()].add(int(seq))
                received += 1
                if received == ACKNOWLEDGEMENTS:
                    child.kill()  # what it said until then is still in the pipe, and is read
        finally:
            child.kill()
    if received < ACKNOWLEDGEMENTS:
        raise click.ClickException("the process that was to be killed ended by itself; see above")
    return dict(found)
