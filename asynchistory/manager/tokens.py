"""How many tokens a message takes, about: no tokenizer is asked, and no model is known."""

from __future__ import annotations

import msgspec

from asynchistory.records import (
    JSON,
    AnyPart,
    Message,
    Reasoning,
    Text,
    ToolCallPart,
    ToolResultPart,
)

#: What surrounds a message: its role, and where it begins and ends.
_MESSAGE = 4
#: What surrounds a tool call or a tool result, with its id.
_TOOL = 12
#: An image, a sound or a file. Providers take from 85 to 1,600 for an image.
_MEDIA = 1000
#: Formats whose ``raw`` is what is sent, whole.
_WHOLE = ("openai", "anthropic")


def estimate_tokens(message: Message) -> int:
    """About how many tokens a model takes a message for.

    Four letters of English are a token, an accented, Greek or Cyrillic one is five
    eighths of a token, a Chinese, Japanese or Korean one is a whole token; then
    something for what surrounds a message and a tool call. Expect it to be off by a
    fifth either way, by more for numbers and code; an image, a sound or a file is
    taken for 1,000 tokens whatever it holds.
    """
    eighths = sum(map(_part, message.parts)) + _text(message.name or "")
    media = sum(not isinstance(part, _COUNTED) for part in message.parts)
    if message.raw is not None and message.raw_format in _WHOLE and not media:
        # What the parts do not say is sent too, such as what a provider's own tools found.
        eighths = max(eighths, _json(message.raw))
    return _MESSAGE + media * _MEDIA + -(-eighths // 8)


_COUNTED = (Text, Reasoning, ToolCallPart, ToolResultPart)


def _part(part: AnyPart) -> int:
    if isinstance(part, (Text, Reasoning)):
        return _text(part.text)
    if isinstance(part, ToolCallPart):
        return 8 * _TOOL + _text(part.name) + _json(part.arguments)
    if isinstance(part, ToolResultPart):
        return 8 * _TOOL + _text(part.name or "") + _json(part.result)
    return 0


def _json(value: JSON) -> int:
    return _text(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _text(text: str) -> int:
    """In eighths of a token.

    A character takes 1 byte of UTF-8 in English, 2 in most other alphabets, 3 in the
    scripts of East Asia and 4 as an emoji: 2, 5, 8 and 11 eighths.
    """
    return 3 * len(text.encode()) - len(text)
