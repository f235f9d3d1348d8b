"""The seven record types, the parts of a message, and what reads hand out instead of a broken one.

Records are immutable. A record that has not been stored has ``seq == 0``; the
store gives ``seq``, ``session_id``, and where they are missing ``record_id``
and ``timestamp``. Nested values (metadata, raw, arguments ...) are plain JSON
and shared with the cache: treat them as read-only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from asynchistory.errors import InvalidRecordError

#: Plain JSON: None, bool, int, float, str, and lists and str-keyed dicts of these.
JSON: TypeAlias = Any

#: The smallest amount of money that is kept, in units of its currency.
MONEY_UNIT = Decimal("1e-12")


class _Shape(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
    gc=False,
):
    #: Fields that a newer version wrote and this one does not know. They survive a rewrite.
    extra: dict[str, JSON] = {}


class Part(_Shape, frozen=True, kw_only=True, tag_field="type"):
    """One piece of a message. The base of the seven kinds of part."""


class Text(Part, frozen=True, tag="text"):
    """Text as the user wrote it or the model answered it."""

    text: str


class Reasoning(Part, frozen=True, tag="reasoning"):
    """What a model thought aloud, with the provider's signature where it gives one."""

    text: str
    signature: str | None = None


class ToolCallPart(Part, frozen=True, tag="tool_call"):
    """A model's request to run a tool.

    ``arguments`` is what the provider sent: JSON text from OpenAI, an object
    from Anthropic. :meth:`parsed` gives the object in either case.
    """

    id: str
    name: str
    arguments: JSON = None

    def parsed(self) -> JSON:
        """The arguments as JSON values.

        Raises:
            ValueError: the model sent text that is not JSON.
        """
        if not isinstance(self.arguments, str):
            return self.arguments
        try:
            return msgspec.json.decode(self.arguments or "{}")
        except RecursionError:
            raise ValueError("the arguments nest too deep") from None


class ToolResultPart(Part, frozen=True, tag="tool_result"):
    """A tool's answer. ``id`` is the call's id; ``result`` is text or any JSON value."""

    id: str
    result: JSON = None
    name: str | None = None
    is_error: bool = False


class Blob(Part, frozen=True, tag="blob"):
    """Bytes inline (an image, audio). ``mime_type`` such as ``image/png``."""

    data: bytes
    mime_type: str | None = None


class File(Part, frozen=True, tag="file"):
    """A file that the provider holds, by its id there."""

    file_id: str
    mime_type: str | None = None


class Uri(Part, frozen=True, tag="uri"):
    """Something at an address."""

    uri: str
    mime_type: str | None = None


AnyPart: TypeAlias = Text | Reasoning | ToolCallPart | ToolResultPart | Blob | File | Uri


class Usage(_Shape, frozen=True, kw_only=True):
    """Tokens of one model call. None is unknown, which is not 0.

    ``cached_tokens`` is a subset of ``input_tokens`` and ``reasoning_tokens``
    one of ``output_tokens``: neither is added to the total.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Record(_Shape, frozen=True, kw_only=True, tag_field="record_type"):
    """The base of the seven record types.

    Attributes:
        seq: 1, 2, 3 ... in its session, without gaps; 0 before it is stored.
        session_id: the session that it is stored in.
        record_id: 32 hexadecimal digits (a UUIDv7), ordered by time.
        timestamp: for people, with a time zone; order is by ``seq``, never by clock.
        metadata: the application's own JSON.
    """

    #: The type's name, such as ``message``.
    record_type: ClassVar[str]

    seq: int = 0
    session_id: str = ""
    record_id: str = ""
    timestamp: datetime | None = None
    metadata: dict[str, JSON] = {}


class Message(Record, frozen=True, kw_only=True, tag="message"):
    """One message of a conversation.

    Attributes:
        role: ``user``, ``assistant``, ``system``, ``developer`` or ``tool``.
        parts: its pieces in order.
        name: the speaker's name, where the provider has one.
        raw: what the parts cannot give back of the provider's own payload; see
            :mod:`asynchistory.formats`. After changing parts, set it to None.
        raw_format: what ``raw`` is: ``openai`` or ``anthropic`` for the whole
            payload, ``openai+`` for its further fields.
    """

    role: str
    parts: tuple[AnyPart, ...] = ()
    name: str | None = None
    raw: dict[str, JSON] | None = None
    raw_format: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple) and isinstance(self.parts, list):
            force_setattr(self, "parts", tuple(self.parts))

    @classmethod
    def of(cls, role: str, content: str | Iterable[AnyPart], **fields: Any) -> Message:
        """A message from text or from parts: ``Message.of("user", "Hi!")``.

        Raises:
            InvalidRecordError: the content is neither, or there is no such field.
        """
        if isinstance(content, str):
            content = (Text(text=content),)
        try:
            return cls(role=role, parts=tuple(content), **fields)
        except TypeError:
            raise InvalidRecordError("the content of a message is text, or parts") from None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The tools that this message asks for."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))

    @property
    def tool_results(self) -> tuple[ToolResultPart, ...]:
        """The tool results that this message carries."""
        return tuple(part for part in self.parts if isinstance(part, ToolResultPart))


class ToolCall(Record, frozen=True, kw_only=True, tag="tool_call"):
    """One run of a tool, as the application saw it. ``duration`` is in seconds."""

    name: str
    input: JSON = None
    output: JSON = None
    error: str | None = None
    duration: float | None = None
    call_id: str | None = None


class LLMRequest(Record, frozen=True, kw_only=True, tag="llm_request"):
    """A request to a model. ``from_seq`` and ``to_seq`` say which records it sent."""

    request_id: str
    provider: str
    model: str
    parameters: dict[str, JSON] = {}
    from_seq: int | None = None
    to_seq: int | None = None
    estimated_tokens: int | None = None


class LLMResponse(Record, frozen=True, kw_only=True, tag="llm_response"):
    """A model's response. Times are in seconds."""

    request_id: str
    provider: str
    model: str
    content: JSON = None
    finish_reason: str | None = None
    usage: Usage | None = None
    response_time: float | None = None
    time_to_first_token: float | None = None


class TokenUsage(Record, frozen=True, kw_only=True, tag="token_usage"):
    """Tokens of one call; see :class:`Usage` for what they count.

    Where a call has several, the newest counts; it outranks the response's own ``usage``.
    ``source`` says who counted (``provider``, ``estimate``), ``confidence`` is 0 to 1.
    """

    request_id: str
    provider: str
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: str | None = None
    confidence: float | None = None


class Cost(Record, frozen=True, kw_only=True, tag="cost"):
    """What one call cost. None is unknown, which is not 0; see :func:`money`."""

    request_id: str
    provider: str
    model: str
    input_cost: Decimal | None = None
    output_cost: Decimal | None = None
    total_cost: Decimal | None = None
    currency: str = "USD"
    price_source: str | None = None


class Checkpoint(Record, frozen=True, kw_only=True, tag="checkpoint"):
    """A named state of the application, at a place of the session.

    Attributes:
        name: the checkpoint's name, which later ones may have too.
        state: the application's own JSON.
        at_seq: the newest record that the state includes; None for the one before it.
        epoch: the session's epoch when this was written or read, to be given to
            :meth:`~asynchistory.AsyncHistoryManager.truncate` or ``fork`` with ``seq``.
            Not stored: only the manager's methods for checkpoints fill it in.
    """

    name: str
    state: JSON = None
    at_seq: int | None = None
    epoch: int | None = None


class CorruptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Stands in a page in the place of a record that is damaged on disk."""

    record_type: ClassVar[Literal["corrupt"]] = "corrupt"

    session_id: str
    seq: int
    reason: str


AnyRecord: TypeAlias = (
    Message | ToolCall | LLMRequest | LLMResponse | TokenUsage | Cost | Checkpoint
)
StoredRecord: TypeAlias = AnyRecord | CorruptRecord

RECORD_TYPES: tuple[type[Record], ...] = (
    Message, ToolCall, LLMRequest, LLMResponse, TokenUsage, Cost, Checkpoint,
)  # fmt: skip
for _cls in RECORD_TYPES:
    _cls.record_type = str(_cls.__struct_config__.tag)
#: The names of the record types, as queries and the command line take them.
RECORD_TYPE_NAMES: tuple[str, ...] = tuple(cls.record_type for cls in RECORD_TYPES)


def money(amount: Decimal | int | str | float) -> Decimal:
    """An amount as :class:`Cost` keeps it: a Decimal of at most 12 decimal places.

    Raises:
        ValueError: the amount is NaN, infinite or not a number.
    """
    if isinstance(amount, bool):
        raise ValueError("an amount of money must be a number, not a bool")
    try:
        exact = Decimal(repr(amount)) if isinstance(amount, float) else Decimal(amount)
        return exact.quantize(MONEY_UNIT, rounding=ROUND_HALF_EVEN).normalize() + Decimal(0)
    except (ArithmeticError, TypeError, ValueError):
        raise ValueError("an amount of money must be a finite number") from None
