"""Messages that call tools and answer, as the tests of windows and repairs make them."""

from __future__ import annotations

from asynchistory import Message, ToolCallPart, ToolResultPart


def call(*ids: str) -> Message:
    """A model's request to run tools."""
    return Message(role="assistant", parts=tuple(ToolCallPart(id=i, name="f") for i in ids))


def result(*ids: str) -> Message:
    """What tools have answered."""
    return Message(role="tool", parts=tuple(ToolResultPart(id=i) for i in ids))
