"""What a campaign counts, and how it holds acknowledgements against a store's contents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: None of these may be other than 0.
FINDINGS = ("lost", "torn", "ghosts", "duplicates", "unopenable", "errors")
#: So many messages say what is wrong; after them only the counts go on.
MOST_MESSAGES = 20


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
    campaign: str
    times: int
    loops: tuple[str, ...] = ("asyncio", "trio")
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    torn: int = 0
    ghosts: int = 0
    duplicates: int = 0
    unopenable: int = 0
    errors: int = 0
    seconds: float = 0.0
    messages: list[str] = field(default_factory=list)

    @property
    def found(self) -> bool:
        return any(getattr(self, name) for name in FINDINGS)

    def note(self, finding: str, message: str) -> None:
        setattr(self, finding, getattr(self, finding) + 1)
        if len(self.messages) < MOST_MESSAGES:
            self.messages.append(f"{finding}: {message}")

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "loops": list(self.loops), "seconds": round(self.seconds, 2)}


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
    places: dict[tuple[str, str], list[Piece]] = defaultdict(list)
    for session_id, pieces in stored.items():
        for seq, piece in enumerate(pieces, start):
            if piece.seq != seq:
                report.note("errors", f"{session_id}: seq {piece.seq} where {seq} should be")
                break
        for piece in pieces:
            places[session_id, piece.batch].append(piece)
    for (session_id, batch), pieces in places.items():
        _judge_batch(report, f"{session_id} {batch}", pieces)
    report.stored += len(places)
    for ack in acks:
        report.acknowledged += 1
        found = places.get((ack.session_id, ack.batch), [])
        here = {(piece.seq, piece.index) for piece in found}
        wanted = {(ack.first_seq + index, index) for index in range(ack.size)}
        if not wanted <= here:
            report.note("lost", f"{ack}")


def _judge_batch(report: Report, name: str, pieces: Sequence[Piece]) -> None:
    indexes = [piece.index for piece in pieces]
    if len(set(indexes)) < len(indexes):
        report.note("duplicates", name)
        return
    first = pieces[0].seq
    whole = [(first + index, index) for index in range(pieces[0].size)]
    if [(piece.seq, piece.index) for piece in pieces] != whole:
        report.note("torn", f"{name}: {[(piece.seq, piece.index) for piece in pieces]}")
