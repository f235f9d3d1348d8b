"""Conversations to import."""

from __future__ import annotations

from typing import Any


def conversation(*texts: str) -> list[dict[str, Any]]:
    """Messages of a user and an assistant in turn."""
    roles = ["user", "assistant"]
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


def with_tools(text: str = "ok") -> list[dict[str, Any]]:
    """A conversation in which an id is used twice."""

    def call(arguments: str) -> dict[str, Any]:
        function = {"name": "look_up", "arguments": arguments}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }

    def result(content: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": "call_1", "content": content}

    return [
        {"role": "user", "content": "Where is it?"},
        call('{"place":"first"}'),
        result(f"{text} one"),
        call('{"place":"second"}'),
        result(f"{text} two"),
        {"role": "assistant", "content": "Here."},
    ]
