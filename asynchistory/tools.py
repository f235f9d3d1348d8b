"""Tools: Python functions that a model may ask to run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import anyio.to_thread
import msgspec

from asynchistory.codec import encode_json
from asynchistory.errors import ConfigurationError
from asynchistory.llm.port import ToolSpec
from asynchistory.records import JSON


class Tool:
    """A function that a model may call.

    Its name, docstring and annotated arguments are what the model is told; see
    :func:`tool_schema`. A plain function runs in a worker thread, a coroutine
    function on the event loop.

    Args:
        function: the function. Its arguments are checked against its annotations.
        name: what the model calls it; the function's own name if left out.
        description: what it does; the function's docstring if left out.

    Raises:
        ConfigurationError: its arguments have no JSON schema.
    """

    def __init__(
        self, function: Callable[..., Any], name: str | None = None, description: str | None = None
    ) -> None:
        self.function: Callable[..., Any] = function
        name = name or str(getattr(function, "__name__", type(function).__name__))
        try:
            self._arguments = _arguments_of(function)
            parameters = tool_schema(self._arguments)
        except (NameError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigurationError(
                f"{name} cannot be a tool: annotate its arguments with types that JSON has a "
                f"schema for ({reason})"
            ) from None
        self.spec: ToolSpec = ToolSpec(
            name=name,
            description=description or inspect.getdoc(function) or "",
            parameters=parameters,
        )

    async def run(self, arguments: JSON) -> JSON:
        """The function's result for a model's arguments, as plain JSON.

        Raises:
            ValueError: the arguments do not fit the function's annotations, or the result
                has no form in JSON.
            Exception: whatever the function raises.
        """
        fitted = msgspec.convert(arguments if arguments is not None else {}, self._arguments)
        values = {name: getattr(fitted, name) for name in fitted.__struct_fields__}
        if _is_async(self.function):
            result = await self.function(**values)
        else:
            result = await anyio.to_thread.run_sync(lambda: self.function(**values))
        return _plain(result)


def _is_async(function: Callable[..., Any]) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object, its method
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _plain(result: object) -> JSON:
    """A result as the history will keep it, and the model read it."""
    todo = [msgspec.to_builtins(result)]
    while todo:
        value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("the result holds NaN or an infinity, which JSON has not")
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
    plain: JSON = msgspec.json.decode(msgspec.json.encode(result))
    encode_json(plain, "the tool's result")  # its bounds
    return plain


def tool_schema(arguments: type[msgspec.Struct]) -> dict[str, JSON]:
    """The JSON schema of a function's arguments, as providers take it."""
    schema = msgspec.json.schema(arguments)
    definitions = schema.pop("$defs", {})
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    parameters: dict[str, JSON] = definitions.pop(reference, schema)
    parameters.pop("title", None)
    if definitions:
        parameters["$defs"] = definitions
    return parameters


def _arguments_of(function: Callable[..., Any]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError("a tool takes arguments by name: no *args or **kwargs")
        hint = Any if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        elif isinstance(parameter.default, (list, dict, set)):
            # A copy for each call: the function may change what it is given.
            default = msgspec.field(default_factory=partial(deepcopy, parameter.default))
            fields.append((parameter.name, hint, default))
        else:
            fields.append((parameter.name, hint, parameter.default))
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
