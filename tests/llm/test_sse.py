"""Server-sent events: the data is the same wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from asynchistory import LLMResponseError
from asynchistory.llm.sse import MAX_EVENT_BYTES, EventParser


def fed(*chunks: bytes) -> list[bytes]:
    """The data of the events in these."""
    parser = EventParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.end()


LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
EVENT = st.tuples(st.lists(LINE, min_size=1, max_size=3), st.sampled_from(["\n", "\r\n"]))


@given(st.lists(EVENT, max_size=5), st.lists(st.integers(0, 400)), st.sampled_from(["", " "]))
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    events: list[tuple[list[str], str]], cuts: list[int], space: str
) -> None:
    wire = b""
    for lines, end in events:
        wire += f": a comment{end}event: message{end}id: 1{end}".encode()
        # The one space that may stand behind the colon is no part of the data.
        wire += b"".join(f"data:{space or ' '}{line}{end}".encode() for line in lines)
        wire += end.encode()
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    chunks = [wire[a:b] for a, b in pairwise(places)]
    expected = ["\n".join(lines).encode() for lines, _ in events]
    assert fed(*chunks) == fed(wire) == expected
    assert fed(*(wire[i : i + 1] for i in range(len(wire)))) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c"])
def test_only_line_ends_of_the_standard_cut(separator: str) -> None:
    text = f'{{"a":"x{separator}y"}}'.encode()
    assert fed(b"data:" + text + b"\n\n") == [text]


def test_a_lone_cr_ends_a_line_too() -> None:
    assert fed(b"data: a\r\rdata: b\rdata: c\r\r") == [b"a", b"b\nc"]
    assert fed(b"data: a\r", b"\rdata: b\r\r") == [b"a", b"b"]


def test_a_byte_order_mark_and_a_field_without_colon() -> None:
    assert fed(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]
    assert fed(b"retry\ndata: a\nunknown: x\n\n\n\n") == [b"a"]


@pytest.mark.parametrize("line", [b"x" * 1024 * 1024, b"data: " + b"x" * 1024 * 1024 + b"\n"])
def test_an_event_is_bounded_in_one_line_and_in_many(line: bytes) -> None:
    with pytest.raises(LLMResponseError, match="16 MiB"):
        fed(*[line] * (MAX_EVENT_BYTES // len(line) + 2))
