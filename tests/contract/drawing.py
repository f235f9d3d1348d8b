"""Strategies of what the model is driven with: few ids, few contents, so that things meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from asynchistory import (
    Checkpoint,
    Cost,
    HistoryQuery,
    LLMRequest,
    LLMResponse,
    Message,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

START = datetime(2024, 2, 28, 22, tzinfo=UTC)
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)

NAMES = "abcdefgh"
names = st.sampled_from(NAMES)
choices = st.integers(0, len(NAMES) - 1)
owners = st.sampled_from(["ann", "bob"])
keys = st.sampled_from(["k", "l"]) | st.none()
handles = st.integers(0, 1)
places = st.integers(0, 9)
expiries = st.sampled_from([None, None, PAST, FUTURE])
#: Of an expected seq or epoch: not given, right, or wrong.
beliefs = st.sampled_from([None, None, None, "right", "right", "wrong"])

_metadata = st.dictionaries(
    st.sampled_from(["k", "l"]), st.sampled_from([None, True, 1, 2, "1", "x", [1]]), max_size=2
)
NO_FIELDS = {"title": None, "metadata": None, "user_id": None, "expires_at": None}
_said = {
    "title": st.sampled_from([None, "", "t"]),
    "metadata": st.none() | _metadata,
    "user_id": st.none() | owners,
}
#: What a session is made with, and what is changed of it; None is "as it is".
fields = st.fixed_dictionaries({**_said, "expires_at": expiries})
changes = st.fixed_dictionaries(
    {**_said, "expires_at": st.sampled_from([None, PAST, FUTURE, "never"])}
)
metadata_filters = st.none() | st.dictionaries(
    st.sampled_from(["k", "l"]), st.sampled_from([None, True, False, 1, "1", "x"]), max_size=1
)

# -- records

_times = st.integers(0, 60).map(lambda hours: START + timedelta(hours=hours))
_numbers = st.none() | st.integers(0, 9)
_seconds = st.sampled_from([None, 0.25, 1.5, 3.0])
_money = st.sampled_from([None, Decimal(0), Decimal("0.000000000001"), Decimal("12.5")])


def _of_a_call(cls: type, **options: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        cls,
        request_id=st.sampled_from(["r", "s", "t"]),
        provider=st.sampled_from("pq"),
        model=st.sampled_from(["m", "n"]),
        timestamp=_times,
        **options,
    )


_tokens = {"input_tokens": _numbers, "output_tokens": _numbers, "cached_tokens": _numbers}
_plain = st.sampled_from(
    [
        Message.of("user", "hello"),
        Message.of("user", "ünï 🚀"),
        Message.of("assistant", [ToolCallPart(id="1", name="f", arguments={"x": 1})]),
        Message.of("tool", [ToolResultPart(id="1", result=[1]), ToolResultPart(id="2")]),
        ToolCall(name="f", output={"k": None}),
        Checkpoint(name="c", state=[1], at_seq=1),
    ]
)
records = st.one_of(
    st.builds(lambda record, at: replace(record, timestamp=at), _plain, _times),
    _of_a_call(LLMRequest),
    _of_a_call(
        LLMResponse,
        finish_reason=st.sampled_from([None, "stop", "error"]),
        usage=st.none() | st.builds(Usage, **_tokens),
        response_time=_seconds,
        time_to_first_token=_seconds,
    ),
    _of_a_call(TokenUsage, **_tokens),
    _of_a_call(
        Cost,
        currency=st.sampled_from(["USD", "EUR"]),
        input_cost=_money,
        output_cost=_money,
        total_cost=_money,
    ),
)
batches = st.lists(records, min_size=1, max_size=5)
rewrites = st.just([]) | batches
some = st.lists(records, min_size=1, max_size=2)

# -- queries

_days = st.sampled_from([None, None, "2024-02-28", "2024-02-29", "2024-03-01"])
filters = st.fixed_dictionaries(
    {
        "record_types": st.sampled_from(
            [None, None, None, ("message",), ("cost", "llm_request"), ("token_usage",), ()]
        ),
        "model": st.sampled_from([None, None, "m", "none"]),
        "start_time": st.none() | _times,
        "end_time": st.none() | _times,
        "with_total": st.booleans(),
    }
)
sizes = st.fixed_dictionaries(
    {"limit": st.sampled_from([0, 1, 2, 3, 100]), "offset": st.sampled_from([0, 0, 0, 1, 3])}
)
queries = st.builds(
    lambda name, newest, filters, sizes: HistoryQuery(name, newest=newest, **filters, **sizes),
    names,
    st.booleans(),
    filters,
    sizes,
)
statistics = st.fixed_dictionaries(
    {
        "session_id": st.none() | names,
        "user_id": st.none() | st.none() | owners,
        "model": st.sampled_from([None, None, "m", "n"]),
        "since": _days,
        "until": _days,
    }
)
