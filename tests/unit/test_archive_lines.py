"""A line of an export, changed anywhere, is refused by type or can be stored as a whole."""

from __future__ import annotations

import re
from functools import cache

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from asynchistory import InvalidInputError, open_history
from asynchistory.archive import read
from tests.contract.archiving import lines_of, live

#: What is put in the place of a value.
TOKENS = [
    b"null", b"true", b"-1", b"1.5", b"1e400", b"9" * 30, b'"x"', b'""', b"[]", b"{}",
    b'"\\ud800"', b'"2024-01-01T00:00:00Z"', b"[" * 5_000, b'"\xff"',
]  # fmt: skip
VALUE = re.compile(rb'(?<=:)("(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|null|true|\[\]|\{\})')


@cache
def lines() -> list[bytes]:
    async def made() -> list[bytes]:
        async with open_history("memory://") as history:
            await live(history)
            return await lines_of(history)

    return anyio.run(made)


def changed(draw: st.DrawFn) -> bytes:
    line = bytearray(draw(st.sampled_from(lines())))
    for _ in range(draw(st.integers(1, 3))):
        spans = [match.span() for match in VALUE.finditer(line)]
        if draw(st.booleans()) and spans:
            first, last = draw(st.sampled_from(spans))
            line[first:last] = draw(st.sampled_from(TOKENS))
        else:
            place = draw(st.integers(0, max(0, len(line) - 1)))
            line[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(line)


@settings(max_examples=400, deadline=None)
@given(line=st.composite(changed)())
def test_a_changed_line_is_refused_by_type_or_can_be_stored(line: bytes) -> None:
    try:
        read(line)
    except InvalidInputError:
        return

    async def store() -> None:
        async with open_history("memory://") as history:
            await history.import_([line])
            assert (await history.verify()).ok
            assert len(await lines_of(history)) == 1

    anyio.run(store)


@pytest.mark.parametrize("cut", [1, 2, 3, 50, 1_000])
def test_a_line_that_was_cut_off_is_refused(cut: int) -> None:
    for line in lines():
        if len(line) > cut + 1:
            with pytest.raises(InvalidInputError):
                read(line.rstrip()[:-cut])
