"""Messages of OpenAI and Anthropic to records and back, without loss.

::

    record = from_openai({"role": "user", "content": "Hi!"})
    to_openai(record)       # the same message
    to_anthropic(record)    # what Anthropic calls it
"""

from __future__ import annotations

from asynchistory.formats.anthropic import (
    AnthropicConversation,
    conversation_from_anthropic,
    conversation_to_anthropic,
    from_anthropic,
    to_anthropic,
)
from asynchistory.formats.openai import (
    conversation_from_openai,
    conversation_to_openai,
    from_openai,
    to_openai,
)

__all__ = [
    "AnthropicConversation",
    "conversation_from_anthropic",
    "conversation_from_openai",
    "conversation_to_anthropic",
    "conversation_to_openai",
    "from_anthropic",
    "from_openai",
    "to_anthropic",
    "to_openai",
]
