"""What a disk may hold after a power cut, made from a recording of what was asked of it.

Everything that was synced is there. Of what was not, the mode says what may be:

``torn``
    The disk wrote in order until the cut; the write under way is cut off at sectors.
``reordered``
    Any of the writes since, each by sectors, and any of the changes to folders.
``strict``
    As ``reordered``, but a new file, a new size and a deletion take the sync of the folder or the
    file: without it the file is not there, is as short as before, is back.
``killed``
    Everything. The process ended and the power did not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["torn", "reordered", "strict", "killed"]
MODES: tuple[Mode, ...] = ("torn", "reordered", "strict")
SECTORS = (512, 4096)
#: A path below the recorded folder, and its bytes; None for a folder.
Image: TypeAlias = dict[str, bytes | None]


@dataclass(eq=False)
class _Inode:
    durable: bytearray | None = field(default_factory=bytearray)  #: None for a folder
    pending: list[_Change] = field(default_factory=list)

    def sync(self) -> None:
        assert self.durable is not None
        for change in self.pending:
            change.apply(self.durable)
        self.pending.clear()


@dataclass
class _Change:
    """A write, or with ``data`` None a truncation to ``offset``, as event ``time``."""

    time: int
    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset - len(content))))
        if self.data is None:
            del content[self.offset :]
        else:
            content[self.offset : self.offset + len(self.data)] = self.data

    def sectors(self, size: int) -> Iterator[_Change]:
        if self.data is None:
            yield self
            return
        end = self.offset + len(self.data)
        start = self.offset
        while start < end:
            stop = min(end, (start // size + 1) * size)
            yield _Change(self.time, start, self.data[start - self.offset : stop - self.offset])
            start = stop


@dataclass
class _Entry:
    """A name in a folder that now stands for ``inode``; None for a deletion."""

    time: int
    name: str
    inode: _Inode | None


class Disk:
    """A folder on a disk, to which the events of a recording happen."""

    def __init__(self) -> None:
        self._time = 0
        self._handles: dict[int, _Inode] = {}
        self._live: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self.entries: list[_Entry] = []  #: changes of names that no sync of a folder has covered

    def happen(self, event: list[Any]) -> None:
        self._time += 1
        getattr(self, f"_{event[0]}")(*event[1:])

    def _open(self, handle: int, name: str) -> None:
        if name not in self._live:
            self._name(name, _Inode())
        self._handles[handle] = self._live[name]

    def _mkdir(self, name: str) -> None:
        self._name(name, _Inode(None))

    def _delete(self, name: str) -> None:
        if self._live.pop(name, None) is not None:
            self.entries.append(_Entry(self._time, name, None))

    def _name(self, name: str, inode: _Inode) -> None:
        self._live[name] = inode
        self.entries.append(_Entry(self._time, name, inode))

    def _write(self, handle: int, offset: int, data: bytes) -> None:
        self._handles[handle].pending.append(_Change(self._time, offset, data))

    def _truncate(self, handle: int, size: int) -> None:
        self._handles[handle].pending.append(_Change(self._time, size, None))

    def _sync(self, handle: int) -> None:
        self._handles[handle].sync()

    def _folder(self, name: str) -> None:
        here = [entry for entry in self.entries if _parent(entry.name) == name]
        _link(self._durable, here)
        self.entries = [entry for entry in self.entries if entry not in here]

    # -- images

    def image(self, mode: Mode, draw: random.Random) -> Image:
        """One of the states in which the disk may be if the power is cut now."""
        surviving = _SURVIVORS[mode](self, draw)
        names = dict(self._durable)
        _link(names, surviving.entries)
        image: Image = {}
        for name, inode in sorted(names.items()):
            if any(folder not in image for folder in _parents(name)):
                continue  # its folder is not there
            if inode.durable is None:
                image[name] = None
                continue
            content = bytearray(inode.durable)
            for change in surviving.changes(inode):
                change.apply(content)
            image[name] = bytes(content)
        return image

    def times(self) -> list[int]:
        """When what is pending was asked for."""
        inodes = {*self._live.values(), *self._durable.values()}
        changes = (change for inode in inodes for change in inode.pending)
        return sorted(item.time for item in (*self.entries, *changes))


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _parents(name: str) -> Iterator[str]:
    while name := _parent(name):
        yield name


def _link(names: dict[str, _Inode], entries: Iterable[_Entry]) -> None:
    for entry in entries:
        if entry.inode is None:
            names.pop(entry.name, None)
        else:
            names[entry.name] = entry.inode


class _Killed:
    def __init__(self, disk: Disk, draw: random.Random) -> None:
        self.entries = list(disk.entries)

    def changes(self, inode: _Inode) -> Iterable[_Change]:
        return inode.pending


class _Torn:
    def __init__(self, disk: Disk, draw: random.Random) -> None:
        self._draw = draw
        self._sector = draw.choice(SECTORS)
        self._cut = draw.choice([*disk.times(), disk.times()[-1] + 1]) if disk.times() else 0
        self.entries = [entry for entry in disk.entries if entry.time < self._cut]

    def changes(self, inode: _Inode) -> Iterator[_Change]:
        for change in inode.pending:
            if change.time < self._cut:
                yield change
            elif change.time == self._cut:
                yield from (
                    sector for sector in change.sectors(self._sector) if self._draw.random() < 0.5
                )


class _Reordered:
    def __init__(self, disk: Disk, draw: random.Random) -> None:
        self._draw = draw
        self._sector = draw.choice(SECTORS)
        self._share = draw.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        self.entries = [entry for entry in disk.entries if draw.random() < self._share]

    def changes(self, inode: _Inode) -> Iterator[_Change]:
        for change in inode.pending:
            for sector in change.sectors(self._sector):
                if self._draw.random() < self._share:
                    yield sector


class _Strict(_Reordered):
    def __init__(self, disk: Disk, draw: random.Random) -> None:
        super().__init__(disk, draw)
        self.entries = []

    def changes(self, inode: _Inode) -> Iterator[_Change]:
        assert inode.durable is not None
        size = len(inode.durable)
        for change in super().changes(inode):
            if change.data is not None and change.offset < size:
                yield _Change(change.time, change.offset, change.data[: size - change.offset])


_SURVIVORS: dict[Mode, Any] = {
    "killed": _Killed,
    "reordered": _Reordered,
    "strict": _Strict,
    "torn": _Torn,
}
