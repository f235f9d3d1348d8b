"""Tools: Python functions that a model may ask to run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import anyio.to_thread
import msgspec

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
    """

    def __init__(
        self, function: Callable[..., Any], name: str | None = None, description: str | None = None
    ) -> None:
        self.function: Callable[..., Any] = function
        self._arguments = _arguments_of(function)
        self.spec: ToolSpec = ToolSpec(
            name=name or function.__name__,
            description=description or inspect.getdoc(function) or "",
            parameters=tool_schema(self._arguments),
        )

    async def run(self, arguments: JSON) -> JSON:
        """The function's result for a model's arguments, as plain JSON.

        Raises:
            ValueError: the arguments do not fit the function's annotations.
            Exception: whatever the function raises.
        """
        fitted = msgspec.convert(arguments if arguments is not None else {}, self._arguments)
        values = {name: getattr(fitted, name) for name in fitted.__struct_fields__}
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(**values)
        else:
            result = await anyio.to_thread.run_sync(lambda: self.function(**values))
        return msgspec.to_builtins(result)


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
    hints = get_type_hints(function)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError("a tool takes arguments by name: no *args or **kwargs")
        hint = hints.get(parameter.name, Any)
        required = parameter.default is parameter.empty
        fields.append(
            (parameter.name, hint) if required else (parameter.name, hint, parameter.default)
        )
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
