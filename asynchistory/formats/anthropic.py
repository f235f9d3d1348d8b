"""Messages of Anthropic's Messages API.

The shapes are those of the API reference (https://docs.anthropic.com/en/api/messages) and of
the types in ``anthropic`` 2.12 (``anthropic.types``). That a request must not repeat a
``tool_use`` id is what the API answers in practice (anthropics/anthropic-sdk-csharp#53).

What :func:`to_anthropic` makes of parts is also how stored messages without ``raw`` come back:
changing it changes history, so the tests pin it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from asynchistory.formats._anthropic_parts import block_of, parts_of
from asynchistory.formats._shared import (
    Payload,
    checked,
    keep_lossless,
    messages_of,
    private,
)
from asynchistory.formats._unique_ids import with_unique_ids
from asynchistory.records import CorruptRecord, Message, Record

_FORMAT = "anthropic"
_INSTRUCTIONS = ("system", "developer")
_ROLES = {"tool": "user", "developer": "system"}


class AnthropicConversation(NamedTuple):
    """A conversation as a request takes it: the system prompt, or None, and the messages."""

    system: str | list[Payload] | None
    messages: list[Payload]


def from_anthropic(message: Mapping[str, Any]) -> Message:
    """Turn a message into a record, without loss.

    Where the parts cannot say exactly what the message said (citations, cache_control, a field
    of the future ...), the message stays whole in ``raw``. What the provider's own servers ran
    (``server_tool_use`` and its results) is kept there alone: it is nothing for the application
    to answer. Tool results stay in their user message, as Anthropic has them.

    Raises:
        InvalidRecordError: it is not a mapping of plain JSON with a role, or its content is
            neither text, a list, nor None.
        RecordTooLargeError: it is over 16 MiB, or deeper than 200 levels.
    """
    data = checked(message, "Anthropic")
    content = data.get("content")
    blocks = content if isinstance(content, list) else [content]
    parts = tuple(part for block in blocks for part in parts_of(block))
    return keep_lossless(Message(role=data["role"], parts=parts), data, _generate, _FORMAT)


def to_anthropic(record: Message) -> Payload:
    """Turn a record into a message.

    One that :func:`from_anthropic` made comes back strictly equal. After changing the parts of
    a record set its ``raw`` to None, which otherwise wins. From elsewhere: a tool's message
    becomes a user message, a developer's a system message, text arguments an object; reasoning
    without Anthropic's signature and speakers' names are left out, and bytes of other types are
    named in a text.
    """
    if record.raw is None or record.raw_format != _FORMAT:
        return private(_generate(record))  # type: ignore[no-any-return]
    raw: Payload = private(record.raw)
    return raw if "role" in raw else {"role": record.role, "content": raw.get("system")}


def conversation_from_anthropic(
    messages: Iterable[Mapping[str, Any]], system: str | list[Payload] | None = None
) -> list[Message]:
    """Turn a request's messages into records; a system prompt becomes the first of them.

    Raises:
        InvalidRecordError: see :func:`from_anthropic`.
    """
    records: list[Message] = []
    if system is not None:
        prompt = from_anthropic({"role": "system", "content": system})
        raw = None if prompt.raw is None else {"system": prompt.raw["content"]}
        records.append(replace(prompt, raw=raw))
    for message in messages:
        record = from_anthropic(message)
        if record.role == "system" and record.raw is None:
            # Or it would come back as the system prompt.
            record = replace(record, raw=to_anthropic(record), raw_format=_FORMAT)
        records.append(record)
    return records


def conversation_to_anthropic(
    records: Iterable[Record | CorruptRecord],
) -> AnthropicConversation:
    """Turn the messages among records into a request's system prompt and messages.

    System and developer messages at the start become the system prompt. Later ones stay where
    they are, which Anthropic's models take since Claude Opus 4.8. Tool messages that follow
    each other become one user message. Ids of tool calls from elsewhere that repeat, or that
    Anthropic refuses, are changed, in the call and in its result. Records that are not
    messages, damaged ones among them, are left out.
    """
    kept = with_unique_ids(
        messages_of(records), lambda call, result: _is_foreign(call) and _is_foreign_tool(result)
    )
    start = next((i for i, record in enumerate(kept) if not _is_prompt(record)), len(kept))
    messages: list[Payload] = []
    merging = False
    for record in kept[start:]:
        message = to_anthropic(record)
        if _is_foreign_tool(record) and merging:
            messages[-1]["content"] += message["content"]
        else:
            messages.append(message)
        merging = _is_foreign_tool(record)
    return AnthropicConversation(_system(kept[:start]), messages)


def _generate(record: Message) -> Payload:
    role = _ROLES.get(record.role, record.role)
    blocks = [block for part in record.parts if (block := block_of(part)) is not None]
    if len(blocks) > 1:
        # OpenAI's models say "" beside their tool calls; Anthropic refuses empty text.
        blocks = [block for block in blocks if block != {"type": "text", "text": ""}]
    # Models answer in blocks; people and programs mostly write plain text.
    written = record.role not in ("assistant", "tool")
    plain = written and len(blocks) == 1 and blocks[0]["type"] == "text"
    return {"role": role, "content": blocks[0]["text"] if plain else blocks}


def _is_foreign(record: Message) -> bool:
    return record.raw is None or record.raw_format != _FORMAT


def _is_foreign_tool(record: Message) -> bool:
    # Anthropic has no such role.
    return record.role == "tool" and _is_foreign(record)


def _is_prompt(record: Message) -> bool:
    in_messages = not _is_foreign(record) and "role" in (record.raw or {})
    return record.role in _INSTRUCTIONS and not in_messages


def _system(prompts: list[Message]) -> str | list[Payload] | None:
    contents = [to_anthropic(record)["content"] for record in prompts]
    if len(contents) <= 1:
        return contents[0] if contents else None
    return [block for content in contents for block in _as_blocks(content)]


def _as_blocks(content: str | list[Payload]) -> list[Payload]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
