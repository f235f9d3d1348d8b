"""Tools: what a model is told of a function, and what becomes of its arguments and results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Optional

import msgspec
import pytest

from asynchistory import (
    AsyncHistoryError,
    ConfigurationError,
    Conversation,
    HistoryQuery,
    LLMFactory,
    Message,
    ScriptedClient,
    Tool,
    ToolCallPart,
    open_history,
    register_provider,
)


class Place(msgspec.Struct):
    """Where something is."""

    city: str
    zip: str | None = None


def find(
    where: Place,
    kinds: list[Literal["cafe", "bar"]],
    limit: int = 10,
    near: Optional[Place] = None,  # noqa: UP045 - as many still write it
    options: dict[str, float] | None = None,
    *,
    exact: bool = False,
) -> str:
    """Find places.

    In a city.
    """
    return f"{where.city} {kinds} {limit} {near} {options} {exact}"


def test_a_function_becomes_a_schema() -> None:
    spec = Tool(find).spec
    assert spec.name == "find"
    assert spec.description == "Find places.\n\nIn a city."
    schema = spec.parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["where", "kinds"]
    assert list(schema["properties"]) == ["where", "kinds", "limit", "near", "options", "exact"]
    properties = schema["properties"]
    assert properties["limit"] == {"type": "integer", "default": 10}
    assert properties["exact"] == {"type": "boolean", "default": False}
    assert properties["kinds"]["type"] == "array"
    assert sorted(properties["kinds"]["items"]["enum"]) == ["bar", "cafe"]
    assert properties["where"] == {"$ref": "#/$defs/Place"}
    assert properties["near"]["default"] is None
    assert {"$ref": "#/$defs/Place"} in properties["near"]["anyOf"]
    assert {"type": "null"} in properties["near"]["anyOf"]
    assert set(schema["$defs"]) == {"Place"}
    assert schema["$defs"]["Place"]["required"] == ["city"]
    # A misspelt argument is an error, which the model is told beforehand.
    assert schema["additionalProperties"] is False
    msgspec.json.encode(schema)


def test_a_function_without_arguments_or_docstring() -> None:
    def nothing() -> None: ...

    spec = Tool(nothing).spec
    assert spec.description == ""
    assert spec.parameters["type"] == "object"
    assert spec.parameters["properties"] == {}


def test_a_name_and_a_description_of_one_s_own() -> None:
    spec = Tool(find, name="search", description="Search.").spec
    assert (spec.name, spec.description) == ("search", "Search.")


@pytest.mark.anyio
async def test_arguments_are_converted_to_what_is_annotated() -> None:
    result = await Tool(find).run({"where": {"city": "Oslo"}, "kinds": ["bar"], "exact": True})
    assert result == "Oslo ['bar'] 10 None None True"
    near = {"where": {"city": "Oslo"}, "kinds": [], "near": {"city": "Ski", "zip": "1400"}}
    assert "Place(city='Ski', zip='1400')" in await Tool(find).run(near)


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        {},
        {"where": "Oslo", "kinds": []},
        {"where": {"city": "Oslo"}, "kinds": ["pub"]},
        {"where": {"city": "Oslo"}, "kinds": [], "limit": "10"},
        {"where": {"city": "Oslo"}, "kinds": [], "limit": True},
        {"where": {"city": "Oslo"}, "kinds": [], "limt": 10},
        ["Oslo"],
    ],
)
@pytest.mark.anyio
async def test_arguments_that_do_not_fit_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's words
        await Tool(find).run(arguments)


def various(*cities: str) -> None: ...
def any_names(**cities: str) -> None: ...
def by_place(city: str, /) -> None: ...
def of_unknown_type(city: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def of_no_schema(city: complex) -> None: ...
def of_a_function(city: Callable[[], None]) -> None: ...


@pytest.mark.parametrize(
    "function", [various, any_names, by_place, of_unknown_type, of_no_schema, of_a_function]
)
def test_what_cannot_be_a_tool_is_refused_at_once(function: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Tool(function)
    assert function.__name__ in str(caught.value) or "by name" in str(caught.value)


@pytest.mark.anyio
async def test_defaults_that_are_mutable() -> None:
    def collect(into: list[int] = []) -> list[int]:  # noqa: B006
        return [*into, 1]

    def several(into: list[int] = [1, 2]) -> list[int]:  # noqa: B006
        return into

    assert await Tool(collect).run({}) == [1]
    assert await Tool(several).run({}) == [1, 2]


class Weather:
    """An object that is called, and has methods."""

    async def __call__(self, city: str) -> str:
        """How it is."""
        return f"snow in {city}"

    async def ask(self, city: str) -> str:
        """How it is."""
        return f"snow in {city}"


async def in_country(country: str, city: str) -> str:
    """How it is."""
    return f"snow in {city}, {country}"


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (Weather().ask, "snow in Oslo"),
        (Weather(), "snow in Oslo"),
        (functools.partial(in_country, "Norway"), "snow in Oslo, Norway"),
    ],
    ids=["method", "object", "partial"],
)
@pytest.mark.anyio
async def test_methods_objects_and_partials(function: Any, result: str) -> None:
    tool = Tool(function, name="weather")
    assert list(tool.spec.parameters["properties"]) == ["city"]
    assert await tool.run({"city": "Oslo"}) == result


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="find"):
        Conversation(
            open_history("memory://"), provider="scripted", model="m", tools=[find, Tool(find)]
        )


# -- results


async def recorded(function: Callable[[], Any]) -> tuple[Any, Any]:
    """A turn in which the model calls this function: what is recorded, and what it is told."""

    def answer(messages: Any) -> Message | str:
        if messages[-1].role == "tool":
            return "done"
        return Message(role="assistant", parts=(ToolCallPart(id="a", name="tool"),))

    register_provider("result", lambda config: ScriptedClient(config.key, answer))
    async with (
        open_history("memory://") as history,
        Conversation(
            history,
            provider="result",
            model="m",
            session_id="chat",
            factory=LLMFactory(),
            tools=[Tool(function, name="tool")],
        ) as conversation,
    ):
        assert (await conversation.ask("Go!")).text == "done"
        page = await history.query_history(HistoryQuery("chat"))
    [record] = [r for r in page if r.record_type == "tool_call"]
    [result] = [part for r in page if isinstance(r, Message) for part in r.tool_results]
    return record, result


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        ("", ""),
        (0, 0),
        ([1, ("a", None)], [1, ["a", None]]),
        (Place("Oslo"), {"city": "Oslo", "zip": None}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (Decimal("1.50"), "1.50"),
        ({1: "a"}, {"1": "a"}),
        (b"\x00\xff", "AP8="),
    ],
    ids=repr,
)
@pytest.mark.anyio
async def test_results_become_plain_json(value: Any, plain: Any) -> None:
    record, result = await recorded(lambda: value)
    assert (record.output, record.error) == (plain, None)
    assert (result.result, result.is_error) == (plain, False)


def a_cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    return value


class Unspeakable(Exception):
    """Its text cannot be stored, or cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raising(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "function",
    [
        object,
        lambda: float("nan"),
        lambda: [1, float("inf")],
        lambda: "\ud800",
        lambda: {"\udfff": 1},
        lambda: {(1, 2): 3},
        a_cycle,
        deep,
        lambda: "x" * (17 * 1024 * 1024),
        raising(ValueError("\ud800")),
        raising(Unspeakable()),
        raising(ValueError("x" * (17 * 1024 * 1024))),
        raising(AsyncHistoryError("of a tool that uses us too")),
        raising(StopIteration("x")),
    ],
    ids=["object", "nan", "inf", "surrogate", "key", "tuple key", "cycle", "deep", "large",
         "error of a surrogate", "error without text", "large error", "error of ours", "stop"],
)  # fmt: skip
@pytest.mark.anyio
async def test_a_result_that_is_no_json_is_an_error_that_the_model_is_told(
    function: Callable[[], Any],
) -> None:
    record, result = await recorded(function)
    assert record.error
    assert record.output is None
    assert result.is_error
    assert result.result == record.error
    assert len(result.result) < 100_000  # it goes to the model, which is paid for by length
