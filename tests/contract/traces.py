"""What is left of words in the files of a store."""

from __future__ import annotations

from pathlib import Path


def traces(folder: Path, *words: str) -> dict[str, list[str]]:
    """Which of the words stand in which of the files."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            held = [word for word in words if word.encode() in content]
            if held:
                found[path.name] = held
    return found
