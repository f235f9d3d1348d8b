"""What Anthropic's Messages API refuses, and in which words.

The messages are those of the API, as its errors are quoted in public issue threads
(anthropics/claude-code#59812 and #8210, anthropics/anthropic-sdk-csharp#53, BerriAI/litellm#26444).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynchistory.testing.replies import ErrorAnswer
from asynchistory.testing.wire import RefusedError

#: From this version on there is no temperature.
_WITHOUT_SAMPLING = "2026-10-21"


def refused(message: str) -> RefusedError:
    """A 400 with these words."""
    return RefusedError(ErrorAnswer(400, message))


def check_key(headers: Mapping[str, str], api_key: str | None) -> None:
    """Refuse a request without the key, if there is one; the key is never repeated."""
    given = headers.get("x-api-key")
    if given is None:
        given = headers.get("authorization", "").removeprefix("Bearer ") or None
    if api_key is None or given == api_key:
        return
    raise RefusedError(
        ErrorAnswer(401, "x-api-key header is required" if given is None else "invalid x-api-key")
    )


def check_request(request: Any, headers: Mapping[str, str]) -> None:
    """Refuse what the API refuses.

    Raises:
        RefusedError: with the answer to give.
    """
    if "anthropic-version" not in headers:
        raise refused("anthropic-version: header is required")
    if not isinstance(request, dict):
        raise refused("The request body is not valid JSON")
    for field in ("max_tokens", "messages", "model"):
        if request.get(field) is None:
            raise refused(f"{field}: Field required")
    if type(request["max_tokens"]) is not int or request["max_tokens"] < 1:
        raise refused("max_tokens: Input should be greater than or equal to 1")
    if headers["anthropic-version"] >= _WITHOUT_SAMPLING:
        for field in ("temperature", "top_p", "top_k"):
            if field in request:
                raise refused(f"{field}: Extra inputs are not permitted")
    _check_messages(request["messages"])


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise refused("messages: Input should be a valid list")
    if not messages:
        raise refused("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_role(index, message)
        _check_content(index, message, last=index == len(messages) - 1)
    _check_tools(messages)


def _check_role(index: int, message: Any) -> None:
    if not isinstance(message, dict):
        raise refused(f"messages.{index}: Input should be a valid dictionary or object")
    role = message.get("role")
    if role not in ("user", "assistant", "system"):
        raise refused(f"messages.{index}.role: Input should be 'user' or 'assistant'")
    if index == 0 and role == "system":
        raise refused(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
            'parameter, not "system" as an input message role.'
        )
    if index == 0 and role != "user":
        raise refused('messages: first message must use the "user" role')


def _check_content(index: int, message: dict[str, Any], *, last: bool) -> None:
    content = message.get("content")
    if not isinstance(content, str | list):
        raise refused(f"messages.{index}.content: Field required")
    if not content and not (last and message["role"] == "assistant"):
        raise refused(
            f"messages.{index}: all messages must have non-empty content except for the optional "
            "final assistant message"
        )
    if isinstance(content, str):
        return
    for place, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise refused(f"messages.{index}.content.{place}.type: Field required")
        _check_block(f"messages.{index}.content.{place}", block)


def _check_block(name: str, block: dict[str, Any]) -> None:
    kind = block["type"]
    if kind == "text" and not str(block.get("text", "")).strip():
        raise refused("messages: text content blocks must be non-empty")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise refused(f"{name}.tool_use.input: Input should be a valid dictionary")
    if kind == "thinking" and not block.get("signature"):
        raise refused(f"{name}.thinking.signature: Field required")


def _check_tools(messages: list[dict[str, Any]]) -> None:
    """Each call is answered at the beginning of the next message, and nothing else is."""
    every = [call for message in messages for call in _ids(message, "tool_use", "id")]
    if len(set(every)) < len(every):
        raise refused("messages: `tool_use` ids must be unique")
    before: list[str] = []
    for index, message in enumerate([*messages, {"role": "user", "content": ""}]):
        answered = _answered(message)
        missing = [call for call in before if call not in answered]
        if missing:
            raise refused(
                f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
        _check_known(index, message, before)
        before = _ids(message, "tool_use", "id")


def _check_known(index: int, message: dict[str, Any], calls: list[str]) -> None:
    for place, block in enumerate(_blocks(message)):
        if block["type"] == "tool_result" and str(block.get("tool_use_id")) not in calls:
            raise refused(
                f"messages.{index}.content.{place}: unexpected `tool_use_id` found in "
                f"`tool_result` blocks: {block.get('tool_use_id')}. Each `tool_result` block must "
                "have a corresponding `tool_use` block in the previous message."
            )


def _answered(message: dict[str, Any]) -> list[str]:
    """The calls that a message answers before it says anything else."""
    answered = []
    for block in _blocks(message):
        if message["role"] != "user" or block["type"] != "tool_result":
            break
        answered.append(str(block.get("tool_use_id")))
    return answered


def _ids(message: dict[str, Any], kind: str, field: str) -> list[str]:
    return [str(block.get(field)) for block in _blocks(message) if block["type"] == kind]


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return content if isinstance(content, list) else []
