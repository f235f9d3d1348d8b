"""Parts of a record, and OpenAI's content parts and tool results. See :mod:`.openai`."""

from __future__ import annotations

import re

from asynchistory.formats._shared import (
    Payload,
    from_base64,
    is_image,
    left_out,
    string,
    text_of,
    to_base64,
)
from asynchistory.records import JSON, AnyPart, Blob, File, Text, Uri

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([^,]*)", re.ASCII)
_AUDIO_FORMATS = {"mp3": "audio/mpeg"}
_AUDIO_TYPES = {mime: name for name, mime in _AUDIO_FORMATS.items()}
_FILE_NAMES = {"application/pdf": "file.pdf", "text/plain": "file.txt"}
#: Blocks that a tool result from Anthropic may hold, besides text.
_MEDIA_BLOCKS = ("image", "document", "search_result", "tool_reference")


def part_of(item: JSON) -> AnyPart | None:
    """The part that a content part says, or None where it is no type of ours."""
    if isinstance(item, str):
        return Text(text=item)
    kind = string(item.get("type")) if isinstance(item, dict) else None
    if kind in ("text", "refusal"):
        text = string(item.get(kind))
        return None if text is None else Text(text=text)
    inner = item.get(kind) if kind else None
    if not isinstance(inner, dict):
        return None
    if kind == "image_url":
        return _address(string(inner.get("url")))
    if kind == "input_audio":
        return _audio(inner)
    return _file(inner) if kind == "file" else None


def _address(url: str | None) -> AnyPart | None:
    if url is None:
        return None
    return _data_url(url, "image/") or Uri(uri=url)


def _data_url(url: JSON, prefix: str = "") -> Blob | None:
    match = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if not match or not match[1].startswith(prefix):
        return None
    data = from_base64(match[2])
    return None if data is None else Blob(data=data, mime_type=match[1])


def _audio(inner: Payload) -> AnyPart | None:
    data, name = from_base64(inner.get("data")), string(inner.get("format"))
    if data is None or name is None:
        return None
    return Blob(data=data, mime_type=_AUDIO_FORMATS.get(name, f"audio/{name}"))


def _file(inner: Payload) -> AnyPart | None:
    if (file_id := string(inner.get("file_id"))) is not None:
        return File(file_id=file_id)
    return _data_url(inner.get("file_data"))


def result_content(result: JSON) -> str | list[Payload]:
    """A tool's result as the content of a tool message."""
    if result is None or isinstance(result, str):
        return result or ""
    blocks = [_result_block(item) for item in result] if isinstance(result, list) else []
    known = [block for block in blocks if block is not None]
    return known if known and len(known) == len(blocks) else text_of(result)


def _result_block(item: JSON) -> Payload | None:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text":
        text = string(item.get("text"))
        return None if text is None else {"type": "text", "text": text}
    # Tool messages hold text only.
    return {"type": "text", "text": f"[{kind}, left out]"} if kind in _MEDIA_BLOCKS else None


def block_of(part: AnyPart) -> Payload | None:
    """A part as a content part, or None where it goes elsewhere or nowhere."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, File):
        return {"type": "file", "file": {"file_id": part.file_id}}
    if isinstance(part, Uri):
        if is_image(part):
            return {"type": "image_url", "image_url": {"url": part.uri}}
        return {"type": "text", "text": part.uri}
    return _blob_block(part) if isinstance(part, Blob) else None


def _blob_block(part: Blob) -> Payload:
    data, mime = to_base64(part.data), part.mime_type
    if mime is None:
        return {"type": "text", "text": left_out(part)}
    if is_image(part):
        return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}}
    if mime.startswith("audio/"):
        name = _AUDIO_TYPES.get(mime, mime.removeprefix("audio/"))
        return {"type": "input_audio", "input_audio": {"data": data, "format": name}}
    file = {"filename": _FILE_NAMES.get(mime, "file"), "file_data": f"data:{mime};base64,{data}"}
    return {"type": "file", "file": file}
