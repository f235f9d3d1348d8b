"""Messages of OpenAI's Chat Completions API, and of the many servers that speak it.

The shapes are those of the API reference (https://platform.openai.com/docs/api-reference/chat)
and of the types in ``openai`` 3.54 (``openai.types.chat``). That inline files need a filename
is what the API answers in practice (openai/openai-agents-python#1513).

What :func:`to_openai` makes of parts is also how stored messages without ``raw`` come back:
changing it changes history, so the tests pin it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from asynchistory.errors import InvalidRecordError
from asynchistory.formats._openai_parts import block_of, part_of, result_content
from asynchistory.formats._shared import (
    Payload,
    checked,
    equal,
    keep_lossless,
    messages_of,
    private,
    string,
    text_of,
)
from asynchistory.records import (
    AnyPart,
    CorruptRecord,
    Message,
    Reasoning,
    Record,
    Text,
    ToolCallPart,
    ToolResultPart,
)

#: ``raw`` is the whole message, or only the fields that the parts cannot say.
_FORMAT = "openai"
_FIELDS = "openai+"


def from_openai(message: Mapping[str, Any]) -> Message:
    """Turn a chat message into a record, without loss.

    Where the parts cannot say exactly what the message said, ``raw`` keeps the fields that they
    lack (``raw_format`` is ``openai+``) or, where that is not enough (an image's detail), the
    whole message (``openai``). A tool message becomes a
    :class:`~asynchistory.ToolResultPart`. So does a message of the old role ``function``:
    those and their ``function_call`` have no id, and get the id ``""``.

    Raises:
        InvalidRecordError: it is not a mapping of plain JSON with a role, or its content is
            neither text, a list, nor None.
        RecordTooLargeError: it is over 16 MiB, or deeper than 200 levels.
    """
    data = checked(message, "OpenAI")
    if data["role"] in ("tool", "function"):
        record = Message(role="tool", parts=(_result(data),))
    else:
        name = string(data.get("name"))
        record = Message(role=data["role"], parts=tuple(_parts(data)), name=name)
    return _keep_fields(record, data) or keep_lossless(record, data, _generate, _FORMAT)


def _keep_fields(record: Message, data: Payload) -> Message | None:
    """The record with the fields that the parts lack, if the parts give all others back.

    An API's answer always has some (``"refusal": null``); to keep it whole would double it.
    """
    generated = _generate(record)
    fields = {name: value for name, value in data.items() if name not in generated}
    if not fields or not equal({**generated, **fields}, data):
        return None
    return replace(record, raw=fields, raw_format=_FIELDS)


def to_openai(record: Message) -> Payload:
    """Turn a record into a chat message.

    One that :func:`from_openai` made comes back strictly equal. After changing the parts of a
    record set its ``raw`` to None, which otherwise wins. What the API cannot express (reasoning,
    files of other types) is left out, or named in a text.

    Raises:
        InvalidRecordError: the record makes several messages, as Anthropic's tool results do;
            use :func:`conversation_to_openai`.
    """
    messages = _messages(record)
    if len(messages) != 1:
        raise InvalidRecordError(
            f"this record makes {len(messages)} OpenAI messages; use conversation_to_openai()"
        )
    return messages[0]


def conversation_from_openai(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Turn a list of chat messages into records, one for each.

    Raises:
        InvalidRecordError: see :func:`from_openai`.
    """
    return [from_openai(message) for message in messages]


def conversation_to_openai(records: Iterable[Record | CorruptRecord]) -> list[Payload]:
    """Turn the messages among records into chat messages.

    Each tool result becomes a message of its own. Records that are not messages, damaged ones
    among them, are left out.
    """
    return [message for record in messages_of(records) for message in _messages(record)]


# -- from OpenAI -------------------------------------------------------------------------------


def _result(data: Payload) -> ToolResultPart:
    call_id = data.get("tool_call_id") if data["role"] == "tool" else None
    return ToolResultPart(
        id=string(call_id) or "", result=data.get("content"), name=string(data.get("name"))
    )


def _parts(data: Payload) -> Iterator[AnyPart]:
    # DeepSeek's field, which other servers took over.
    if (thoughts := string(data.get("reasoning_content"))) is not None:
        yield Reasoning(text=thoughts)
    content = data.get("content")
    for item in content if isinstance(content, list) else [content]:
        if (part := part_of(item)) is not None:
            yield part
    if not content and (instead := _instead_of_content(data)):
        yield Text(text=instead)
    calls = data.get("tool_calls")
    for item in calls if isinstance(calls, list) else ():
        if isinstance(item, dict) and (call := _call(item)) is not None:
            yield call
    if isinstance(data.get("function_call"), dict):
        yield from _named(data["function_call"], "", "arguments")


def _instead_of_content(data: Payload) -> str | None:
    audio = data.get("audio")
    spoken = audio.get("transcript") if isinstance(audio, dict) else None
    return string(data.get("refusal")) or string(spoken)


def _call(item: Payload) -> ToolCallPart | None:
    call_id = string(item.get("id")) or ""
    for kind, field in (("function", "arguments"), ("custom", "input")):
        if isinstance(item.get(kind), dict):
            return next(_named(item[kind], call_id, field), None)
    return None


def _named(called: Payload, call_id: str, field: str) -> Iterator[ToolCallPart]:
    if (name := string(called.get("name"))) is not None:
        yield ToolCallPart(id=call_id, name=name, arguments=called.get(field))


# -- to OpenAI ---------------------------------------------------------------------------------


def _messages(record: Message) -> list[Payload]:
    if record.raw is not None and record.raw_format == _FORMAT:
        return [private(record.raw)]
    if record.raw is not None and record.raw_format == _FIELDS:
        return [{**_generate(replace(record, raw=None)), **private(record.raw)}]
    results = record.tool_results
    answers = [_tool_message(part, record.name) for part in results]
    if results and len(results) == len(record.parts):
        return answers
    rest = [_generate_message(record)]
    # A tool's answer comes right after the message that called it.
    return rest + answers if record.role == "assistant" else answers + rest


def _generate(record: Message) -> Payload:
    return _messages(record)[0]


def _generate_message(record: Message) -> Payload:
    blocks = [block for part in record.parts if (block := block_of(part)) is not None]
    calls = record.tool_calls
    role = "user" if record.role == "tool" else record.role
    message: Payload = {"role": role, "content": _content(blocks, role)}
    if record.name is not None:
        message["name"] = record.name
    if len(calls) == 1 and not calls[0].id:
        message["function_call"] = _function(calls[0])
    elif calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function(call)} for call in calls
        ]
    return message


def _content(blocks: list[Payload], role: str) -> str | list[Payload] | None:
    if not blocks:
        return None if role == "assistant" else ""
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return str(blocks[0]["text"])
    return blocks


def _function(call: ToolCallPart) -> Payload:
    arguments = {} if call.arguments is None else call.arguments
    text = arguments if isinstance(arguments, str) else text_of(arguments)
    return {"name": call.name, "arguments": text}


def _tool_message(part: ToolResultPart, name: str | None) -> Payload:
    name = part.name or name
    content = result_content(part.result)
    if not part.id and name is not None:
        return {"role": "function", "name": name, "content": content}
    message: Payload = {"role": "tool", "tool_call_id": part.id, "content": content}
    if name is not None:
        message["name"] = name
    return message
