"""What a campaign counts, and how it holds acknowledgements against a store's contents."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: None of these may be other than 0.
FINDINGS = (
    "lost",  # an append returned, and its records are not there
    "torn",  # a part of a batch
    "ghosts",  # stored, though its caller was told that it is not
    "duplicates",  # stored twice
    "unopenable",  # a database that the store does not open
    "errors",  # whatever else is wrong
    "stranded",  # a thread, task, lock or descriptor that is left over
    "silent",  # a fault that nobody was told of, or was told of wrongly
    "stuck",  # a call that does not end
    "unreported",  # damage that was read as if it were sound
    "stale",  # a read that misses a write which had returned before it began
    "wrong",  # a read that gives what was never written there
)
LOOPS = ("asyncio", "trio")
#: So many messages of a finding say what is wrong; after them only the counts go on.
MOST_MESSAGES = 8


class Ack(NamedTuple):
    """An append that returned: its batch of ``size`` records begins at ``first_seq``."""

    session_id: str
    batch: str
    size: int
    first_seq: int


class Piece(NamedTuple):
    """A stored record: record ``index`` of the ``size`` of its batch."""

    seq: int
    batch: str
    index: int
    size: int


@dataclass
class Report:
    """The result of one campaign: ``times`` of what ``unit`` says, and figures of its own."""

    campaign: str
    times: int
    loops: tuple[str, ...] = LOOPS
    unit: str = "times on each loop"
    seed: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    torn: int = 0
    ghosts: int = 0
    duplicates: int = 0
    unopenable: int = 0
    errors: int = 0
    stranded: int = 0
    silent: int = 0
    stuck: int = 0
    unreported: int = 0
    stale: int = 0
    wrong: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    peaks: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    @property
    def found(self) -> bool:
        return any(getattr(self, name) for name in FINDINGS)

    @property
    def findings(self) -> dict[str, int]:
        """Those that are other than 0."""
        return {name: getattr(self, name) for name in FINDINGS if getattr(self, name)}

    def note(self, finding: str, message: str) -> None:
        setattr(self, finding, getattr(self, finding) + 1)
        self._say(finding, f"{finding}: {message}")

    def _say(self, finding: str, message: str) -> None:
        if sum(said.startswith(f"{finding}:") for said in self.messages) < MOST_MESSAGES:
            self.messages.append(message)

    def add(self, other: Report, where: str = "") -> None:
        """Take over what ``other`` counted, in a place that ``where`` may name."""
        for name in ("acknowledged", "stored", *FINDINGS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.counts += other.counts
        self.peaks |= other.peaks
        # One message of a kind: of a file that is lost, each of its records is.
        first = {message.partition(":")[0]: message for message in reversed(other.messages)}
        for finding, message in first.items():
            text = message.removeprefix(finding)
            self._say(finding, f"{finding}: {where}{text}" if where else message)

    def as_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "loops": list(self.loops),
            "seconds": round(self.seconds, 2),
            "counts": dict(sorted(self.counts.items())),
            "peaks": dict(sorted(self.peaks.items())),
        }


def new_seed() -> int:
    """A seed for one campaign; it is in the report, so that a run can be looked into."""
    return random.SystemRandom().randrange(2**32)


def judge(
    report: Report, acks: Iterable[Ack], stored: Mapping[str, Sequence[Piece]], start: int = 1
) -> None:
    """Count what is lost, torn, doubled, or not in its place.

    Args:
        report: where it is counted.
        acks: the appends that returned.
        stored: the records of each session in the order of a read.
        start: the seq that the first of each session's records must have.
    """
    for session_id, pieces in stored.items():
        for seq, piece in enumerate(pieces, start):
            if piece.seq != seq:
                report.note("errors", f"{session_id}: seq {piece.seq} where {seq} should be")
                break
    places = _places(stored)
    for (session_id, batch), pieces in places.items():
        _judge_batch(report, f"{session_id} {batch}", pieces)
    report.stored += len(places)
    for ack in acks:
        report.acknowledged += 1
        found = places.get((ack.session_id, ack.batch), ())
        here = {(piece.seq, piece.index) for piece in found}
        wanted = {(ack.first_seq + index, index) for index in range(ack.size)}
        if not wanted <= here:
            report.note("lost", f"{ack}")


def judge_refused(
    report: Report,
    refused: Collection[str],
    stored: Mapping[str, Sequence[Piece]],
    finding: str = "ghosts",
) -> None:
    """Count the batches that are stored though their callers were told otherwise."""
    for session_id, batch in _places(stored):
        if batch in refused:
            report.note(finding, f"{session_id} {batch} is stored, and its caller was refused")


def _places(stored: Mapping[str, Sequence[Piece]]) -> dict[tuple[str, str], list[Piece]]:
    places: dict[tuple[str, str], list[Piece]] = defaultdict(list)
    for session_id, pieces in stored.items():
        for piece in pieces:
            places[session_id, piece.batch].append(piece)
    return places


def _judge_batch(report: Report, name: str, pieces: Sequence[Piece]) -> None:
    indexes = [piece.index for piece in pieces]
    if len(set(indexes)) < len(indexes):
        report.note("duplicates", name)
        return
    first = pieces[0].seq
    whole = [(first + index, index) for index in range(pieces[0].size)]
    if [(piece.seq, piece.index) for piece in pieces] != whole:
        report.note("torn", f"{name}: {[(piece.seq, piece.index) for piece in pieces]}")
