"""What each read must give at least: the newest state that a returned write has left."""

from __future__ import annotations

from typing import Any, NamedTuple

from asynchistory import AsyncHistoryManager, Message, SessionNotFoundError, Version
from tests.faults.report import Report

#: Behind every seq.
END = 2**62


class Seen(NamedTuple):
    """What one read gave: the session's version and the texts of its newest records."""

    version: Version | None  #: None: there is no such session
    texts: tuple[str, ...] = ()


class Mark(NamedTuple):
    """The newest state that had been told when a read began."""

    version: Version
    deletions: int
    there: bool


class Floor:
    """The states of one session that writes returned, whoever wrote."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.version = Version(0, 0)
        #: The newest text at each version that an append led to.
        self.texts: dict[Version, str] = {}
        #: Deletions that were begun, and whether it was written to since the last.
        self.deletions = 0
        self.there = False

    @property
    def mark(self) -> Mark:
        """Where things stand when a read begins."""
        return Mark(self.version, self.deletions, self.there)

    def wrote(self, epoch: int, seq: int, text: str | None = None) -> None:
        """A write returned."""
        version = Version(epoch, seq)
        if text is not None:
            self.texts[version] = text
            self.there = True
        self.version = max(self.version, version)

    def deleting(self) -> None:
        """A deletion begins."""
        self.deletions += 1
        self.there = False

    def deleted(self) -> None:
        """A deletion returned: nothing of this epoch may be read any more."""
        self.version = Version(self.version.epoch, END)

    def judge(self, report: Report, mark: Mark, seen: Seen) -> None:
        """Hold a read against the floor that there was when it began."""
        report.counts["reads"] += 1
        least = mark.version
        if seen.version is None:
            if mark.there and mark.deletions == self.deletions:
                report.note("stale", f"{self.session_id} was not found, and it stood at {least}")
            return
        if seen.version < least:
            report.note("stale", f"{self.session_id}: {seen.version}, and it stood at {least}")
        known = self.texts.get(seen.version)
        if known is not None and seen.texts[-1:] != (known,):
            report.note("wrong", f"{self.session_id}: another record at {seen.version}")
        if any(not text.startswith(f"{self.session_id}/") for text in seen.texts):
            report.note("wrong", f"{self.session_id}: a record of another session")


async def perform(history: AsyncHistoryManager, step: dict[str, Any]) -> dict[str, Any]:
    """Do one step, here or in another process: what it led to, in plain JSON."""
    session_id = step["session"]
    try:
        match step["do"]:
            case "append":
                done = await history.append(session_id, Message.of("user", step["text"]))
                return {"epoch": done.epoch, "seq": done.last_seq}
            case "replace":
                done = await history.replace(session_id, Message.of("user", step["text"]))
                return {"epoch": done.epoch, "seq": done.last_seq}
            case "truncate":
                cut = await history.truncate(session_id, step["to"])
                return {"epoch": cut.epoch, "seq": cut.seq}
            case "delete":
                await history.delete_session(session_id)
                return {}
            case "read":
                if step.get("forget"):
                    history.cache.clear()
                window = await history.window(session_id, last=100, level=step.get("level"))
                texts = [record.text for record in window.records if isinstance(record, Message)]
                return {"epoch": window.epoch, "seq": window.seq, "texts": texts}
    except SessionNotFoundError:
        return {}
    raise AssertionError(f"no step {step['do']!r}")


def seen(result: dict[str, Any]) -> Seen:
    """What a read step gave."""
    if not result:
        return Seen(None)
    return Seen(Version(result["epoch"], result["seq"]), tuple(result["texts"]))
