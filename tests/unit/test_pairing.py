"""A tool result belongs to the nearest preceding unanswered call of its id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from asynchistory.formats import conversation_from_openai
from asynchistory.pairing import Position, ToolPair, ToolPairs, pair_tools
from asynchistory.records import (
    CorruptRecord,
    Message,
    Record,
    Text,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
)

REAL = Path(__file__).parents[3] / "shared" / "data" / "tau_bench_gpt4o_airline.json"


def call(call_id: str) -> ToolCallPart:
    return ToolCallPart(id=call_id, name="f")


def result(call_id: str) -> ToolResultPart:
    return ToolResultPart(id=call_id)


def message(*parts: ToolCallPart | ToolResultPart | Text) -> Message:
    return Message.of("any", parts)


def pair(call_record: int, call_part: int, result_record: int, result_part: int) -> ToolPair:
    return ToolPair(Position(call_record, call_part), Position(result_record, result_part))


def test_nothing() -> None:
    assert pair_tools([]) == ToolPairs((), (), ())


def test_calls_of_one_message() -> None:
    records = [
        message(Text(text="Now"), call("a"), call("b")),
        message(result("b"), Text(text="and"), result("a")),
    ]
    assert pair_tools(records) == ToolPairs((pair(0, 2, 1, 0), pair(0, 1, 1, 2)), (), ())


def test_an_id_that_is_used_again() -> None:
    records = [message(call("a")), message(result("a"))] * 2
    assert pair_tools(records).pairs == (pair(0, 0, 1, 0), pair(2, 0, 3, 0))


def test_an_answer_goes_to_the_nearest_call_and_not_to_the_abandoned_one() -> None:
    records = [message(call("a")), message(call("a")), message(result("a"))]
    assert pair_tools(records) == ToolPairs((pair(1, 0, 2, 0),), (Position(0, 0),), ())


def test_the_next_answer_goes_to_the_call_before() -> None:
    records = [message(call("a"), call("a")), message(result("a"), result("a"))]
    assert pair_tools(records).pairs == (pair(0, 1, 1, 0), pair(0, 0, 1, 1))


def test_a_result_before_its_call_is_an_orphan() -> None:
    records = [message(result("a")), message(call("a")), message(result("b"))]
    assert pair_tools(records) == ToolPairs((), (Position(1, 0),), (Position(0, 0), Position(2, 0)))


def test_other_records_count_as_places_only() -> None:
    damaged = CorruptRecord(session_id="s", seq=2, reason="checksum")
    records: list[Record | CorruptRecord] = [
        ToolCall(name="f", call_id="a"),
        message(call("a")),
        damaged,
        message(result("a")),
    ]
    assert pair_tools(iter(records)) == ToolPairs((pair(1, 0, 3, 0),), (), ())


PARTS = st.builds(call, st.sampled_from("abc")) | st.builds(result, st.sampled_from("abc"))


@given(st.lists(st.lists(PARTS, max_size=4).map(lambda parts: message(*parts)), max_size=8))
def test_against_the_definition(records: list[Message]) -> None:
    found = pair_tools(records)
    parts = {
        Position(index, place): part
        for index, record in enumerate(records)
        for place, part in enumerate(record.parts)
    }
    answered: dict[Position, Position] = {}
    for here, part in parts.items():
        if not isinstance(part, ToolResultPart):
            continue
        open_calls = [
            place
            for place, other in parts.items()
            if isinstance(other, ToolCallPart) and other.id == part.id
            and place < here and place not in answered
        ]  # fmt: skip
        if open_calls:
            answered[max(open_calls)] = here
    calls = [place for place, part in parts.items() if isinstance(part, ToolCallPart)]
    results = [place for place, part in parts.items() if isinstance(part, ToolResultPart)]
    assert dict(found.pairs) == answered
    assert list(found.unanswered) == [place for place in calls if place not in answered]
    assert list(found.orphans) == [place for place in results if place not in answered.values()]
    assert [made.result for made in found.pairs] == sorted(answered.values())


@pytest.mark.skipif(not REAL.exists(), reason="the real conversations are not here")
def test_real_conversations() -> None:
    count = repeated = 0
    for run in json.loads(REAL.read_text()):
        records = conversation_from_openai(run["traj"])
        found = pair_tools(records)
        assert (found.orphans, found.unanswered) == ((), ())
        for made in found.pairs:
            # This agent makes one call at a time and answers it in the next message.
            assert made.call.record == made.result.record - 1
        count += len(found.pairs)
        ids = [part.id for record in records for part in record.tool_calls]
        repeated += len(ids) - len(set(ids))
    assert (count, repeated) == (1164, 73)
