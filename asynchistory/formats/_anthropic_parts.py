"""Parts of a record, and Anthropic's content blocks. See :mod:`.anthropic`."""

from __future__ import annotations

from collections.abc import Iterator

from asynchistory.formats._shared import (
    Payload,
    from_base64,
    is_image,
    left_out,
    string,
    text_of,
    to_base64,
)
from asynchistory.records import (
    JSON,
    AnyPart,
    Blob,
    File,
    Reasoning,
    Text,
    ToolCallPart,
    ToolResultPart,
    Uri,
)

_PDF = "application/pdf"
_RESULT_BLOCKS = ("text", "image", "document", "search_result", "tool_reference")


def parts_of(block: JSON) -> Iterator[AnyPart]:
    """The parts that a content block says; none where it is no type of ours."""
    if isinstance(block, str):
        yield Text(text=block)
    if not isinstance(block, dict):
        return
    kind = block.get("type")
    if kind in ("image", "document"):
        yield from _source(kind, block.get("source"))
    elif kind == "search_result":
        yield from _nested(block.get("content"))
    elif (part := _part(kind, block)) is not None:
        yield part


def _part(kind: JSON, block: Payload) -> AnyPart | None:
    if kind == "text" and (text := string(block.get("text"))) is not None:
        return Text(text=text)
    if kind == "thinking" and (text := string(block.get("thinking"))) is not None:
        return Reasoning(text=text, signature=string(block.get("signature")))
    if kind == "redacted_thinking":
        return Reasoning(text="")
    if kind == "tool_use" and (name := string(block.get("name"))) is not None:
        call_id = string(block.get("id")) or ""
        return ToolCallPart(id=call_id, name=name, arguments=block.get("input"))
    if kind == "tool_result":
        call_id, failed = string(block.get("tool_use_id")) or "", block.get("is_error") is True
        return ToolResultPart(id=call_id, result=block.get("content"), is_error=failed)
    return None


def _nested(content: JSON) -> Iterator[AnyPart]:
    for block in content if isinstance(content, list) else [content]:
        # Never deeper: a search result within a document is nothing the API knows.
        if isinstance(block, dict) and (part := _part(block.get("type"), block)) is not None:
            yield part
        elif isinstance(block, str):
            yield Text(text=block)


def _source(block: str, source: JSON) -> Iterator[AnyPart]:
    if not isinstance(source, dict):
        return
    kind, mime, data = source.get("type"), string(source.get("media_type")), source.get("data")
    if kind == "content":
        yield from _nested(source.get("content"))
    elif kind == "base64" and (decoded := from_base64(data)) is not None:
        yield Blob(data=decoded, mime_type=mime)
    elif kind == "text" and isinstance(data, str):
        yield Blob(data=data.encode(), mime_type=mime)
    elif kind == "url" and (url := string(source.get("url"))) is not None:
        yield Uri(uri=url, mime_type=_PDF if block == "document" else None)
    elif kind == "file" and (file_id := string(source.get("file_id"))) is not None:
        yield File(file_id=file_id)


def block_of(part: AnyPart) -> Payload | None:
    """A part as a content block, or None where Anthropic does not take it."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCallPart):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part)}
    if isinstance(part, ToolResultPart):
        return _result_block(part)
    if isinstance(part, Reasoning):
        if part.signature is None:
            return None
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return _media_block(part)


def _input(call: ToolCallPart) -> JSON:
    try:
        arguments = call.parsed()
    except (ValueError, RecursionError):
        arguments = call.arguments
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"input": arguments}


def _result_block(part: ToolResultPart) -> Payload:
    block: Payload = {"type": "tool_result", "tool_use_id": part.id}
    if part.result is not None:
        sendable = isinstance(part.result, str) or _are_blocks(part.result)
        block["content"] = part.result if sendable else text_of(part.result)
    if part.is_error:
        block["is_error"] = True
    return block


def _are_blocks(value: JSON) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and item.get("type") in _RESULT_BLOCKS for item in value)
    )


def _media_block(part: Blob | File | Uri) -> Payload:
    if isinstance(part, File):
        return {"type": "document", "source": {"type": "file", "file_id": part.file_id}}
    mime = part.mime_type
    kind = "image" if is_image(part) else "document"
    if isinstance(part, Uri):
        if kind == "document" and mime != _PDF:
            return {"type": "text", "text": part.uri}
        return {"type": kind, "source": {"type": "url", "url": part.uri}}
    if kind == "image" or mime == _PDF:
        data = to_base64(part.data)
        return {"type": kind, "source": {"type": "base64", "media_type": mime, "data": data}}
    if mime == "text/plain":
        text = part.data.decode(errors="replace")
        return {"type": kind, "source": {"type": "text", "media_type": mime, "data": text}}
    return {"type": "text", "text": left_out(part)}
