"""LangChain's chat models as LLM instances: ``langchain:openai``, ``langchain:google_genai`` ...

LangChain runs on asyncio alone, and its models open connections that belong to the loop they were
opened in. So behind one instance there is a model for each event-loop run, made when the run first
asks and forgotten at its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import anyio.to_thread

from asynchistory.errors import (
    ConfigurationError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    LLMTimeoutError,
)
from asynchistory.forks import in_child
from asynchistory.formats import conversation_to_openai
from asynchistory.llm.http import http_client
from asynchistory.llm.key import ClientKey, Credential, Options, secret_of
from asynchistory.llm.port import (
    ChatRequest,
    ClientEvent,
    Completion,
    LLMClient,
    ReasoningDelta,
    TextDelta,
    ToolSpec,
)
from asynchistory.records import JSON, AnyPart, Message, Reasoning, Text, ToolCallPart, Usage
from asynchistory.runs import at_end, current_run
from asynchistory.validation import MAX_TOKENS

if TYPE_CHECKING:
    from asynchistory.llm.providers import ClientConfig

#: LangChain's ``BaseChatModel``: an extra, which need not be installed to check types.
ChatModel: TypeAlias = Any


class LangChainClient(LLMClient):
    """A chat model of LangChain's, for any number of asyncio's event loops.

    Args:
        key: what it is for.
        make: makes the model, once for each event-loop run.
        close: closes what ``make`` opened for it, when the run ends.
    """

    def __init__(
        self,
        key: ClientKey,
        make: Callable[[], ChatModel],
        close: Callable[[ChatModel], Awaitable[None]] | None = None,
    ) -> None:
        self.key = key
        self._make = make
        self._close = close
        # By the run itself. Its entry goes when the run ends.
        self._models: dict[object, tuple[ChatModel, AsyncGenerator[None, None]]] = {}
        self._parents: list[object] = []
        in_child(self, "_forget")

    def __repr__(self) -> str:
        return f"<LangChainClient {self.key.provider} {self.key.model}>"

    def _forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        self._parents.append(self._models)  # kept, and so not closed
        self._models = {}

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncGenerator[AsyncIterator[ClientEvent]]:
        """See :class:`LLMClient`."""
        start = time.perf_counter()
        model = await self._model(request)
        async with (
            aclosing(model.astream(conversation_to_openai(request.messages))) as chunks,
            aclosing(self._events(chunks, start)) as events,
        ):
            yield events

    async def complete(self, request: ChatRequest) -> Completion:
        """See :class:`LLMClient`."""
        start = time.perf_counter()
        model = await self._model(request)
        with _Problem(self.key.provider):
            answer = await model.ainvoke(conversation_to_openai(request.messages))
            return self._completion(answer, start)

    async def _model(self, request: ChatRequest) -> Any:
        """This run's model, told of the tools."""
        run = current_run()
        if not isinstance(run, asyncio.AbstractEventLoop):
            raise ConfigurationError(
                "LangChain's models run on asyncio alone; on trio use a provider of this library, "
                "such as openai"
            )
        model, _ = self._models.get(run) or await self._begin(run)
        with _Problem(self.key.provider):
            if request.tools:
                model = model.bind_tools([_tool(tool) for tool in request.tools])
            if request.max_tokens is not None:
                model = model.bind(max_tokens=request.max_tokens)
        return model

    async def _begin(self, run: object) -> tuple[ChatModel, AsyncGenerator[None, None]]:
        with _Problem(self.key.provider):
            model = self._make()

        async def end() -> None:
            # A child that was forked meanwhile has forgotten it.
            if self._models.pop(run, None) is not None and self._close is not None:
                await self._close(model)

        guard = at_end(end)
        self._models[run] = model, guard
        await anext(guard)  # from now on the loop calls it at its end; nothing is waited for
        return model, guard

    async def _events(
        self, chunks: AsyncIterator[Any], start: float
    ) -> AsyncGenerator[ClientEvent, None]:
        whole: Any = None
        first: float | None = None
        with _Problem(self.key.provider):
            async for chunk in chunks:
                whole = chunk if whole is None else whole + chunk
                for event in _deltas(chunk):
                    first = first or time.perf_counter()
                    yield event
                if chunk.tool_call_chunks:
                    first = first or time.perf_counter()
            if whole is None:
                raise LLMResponseError("the model gave no answer", provider=self.key.provider)
            completion = self._completion(whole, start, first or time.perf_counter())
        yield completion

    def _completion(self, answer: Any, start: float, first: float | None = None) -> Completion:
        about = answer.response_metadata
        reason = about.get("finish_reason") or about.get("stop_reason")
        return Completion(
            message=Message(role="assistant", parts=tuple(_parts(answer))),
            model=str(about.get("model_name") or about.get("model") or self.key.model),
            finish_reason=reason if isinstance(reason, str) else None,
            usage=_usage(answer.usage_metadata),
            response_time=time.perf_counter() - start,
            time_to_first_token=first and first - start,
        )


def _tool(tool: ToolSpec) -> dict[str, JSON]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _deltas(chunk: Any) -> Iterator[ClientEvent]:
    for block in chunk.content_blocks:
        if block["type"] == "text" and block["text"]:
            yield TextDelta(block["text"])
        elif block["type"] == "reasoning" and block.get("reasoning"):
            yield ReasoningDelta(block["reasoning"])


def _parts(answer: Any) -> Iterator[AnyPart]:
    for block in answer.content_blocks:
        if block["type"] == "text" and block["text"]:
            yield Text(text=block["text"])
        elif block["type"] == "reasoning" and block.get("reasoning"):
            yield Reasoning(text=block["reasoning"])
    # In a stream they come as the model wrote them, which LangChain reads as far as it is JSON.
    calls = getattr(answer, "tool_call_chunks", ())
    for call in calls or (*answer.tool_calls, *answer.invalid_tool_calls):
        name, arguments = call["name"] or "", call["args"]
        yield ToolCallPart(id=call["id"] or uuid4().hex, name=name, arguments=arguments)


def _usage(data: Any) -> Usage | None:
    if not data:
        return None

    def count(where: Any, name: str) -> int | None:
        value = (where or {}).get(name)
        return value if type(value) is int and 0 <= value <= MAX_TOKENS else None

    return Usage(
        input_tokens=count(data, "input_tokens"),
        output_tokens=count(data, "output_tokens"),
        total_tokens=count(data, "total_tokens"),
        cached_tokens=count(data.get("input_token_details"), "cache_read"),
        reasoning_tokens=count(data.get("output_token_details"), "reasoning"),
    )


# -- what goes wrong


class _Problem:
    """Turns what LangChain and the clients under it raise into errors of ours.

    Their messages may quote the request or the key; ours name the kind alone.
    """

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ours = isinstance(error, (LLMError, ConfigurationError))
        if not isinstance(error, Exception) or ours:
            return
        failure = _failure(self.provider, error)
        del error, traceback  # or they would be variables of the new traceback
        raise failure from None


def _failure(provider: str, error: Exception) -> LLMError:
    name = type(error).__name__
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if not isinstance(status, int):
        if isinstance(error, TimeoutError) or "Timeout" in name:
            return LLMTimeoutError(f"{provider} did not answer in time ({name})", provider=provider)
        if isinstance(error, OSError) or "Connect" in name:
            return LLMConnectionError(
                f"{provider} could not be reached ({name})", provider=provider
            )
        return LLMResponseError(
            f"{provider} did not answer well ({name}); ask LangChain's model itself to see more",
            provider=provider,
        )
    request_id = getattr(error, "request_id", None)
    return _kind(status)(
        f"{provider} answered {status} ({name})",
        provider=provider,
        status=status,
        request_id=request_id if isinstance(request_id, str) else None,
        retry_after=_seconds(getattr(response, "headers", {}).get("retry-after")),
    )


def _kind(status: int) -> type[LLMError]:
    if status in (401, 403):
        return LLMAuthenticationError
    if status == 429:
        return LLMRateLimitError
    if 400 <= status < 500:
        return LLMRequestError
    return LLMServerError if status >= 500 else LLMResponseError


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except (TypeError, ValueError):
        return None


# -- by configuration


async def build(config: ClientConfig) -> LLMClient:
    """The client of a configuration, through LangChain's ``init_chat_model``.

    Raises:
        ConfigurationError: a package is missing, or LangChain refuses the configuration.
    """
    key, given = config.key, config.api_key
    provider = key.provider.partition(":")[2]
    arguments = Options(config.options, timeout=config.timeout)
    wanted = {"model_provider": provider, "base_url": key.base_url, "temperature": key.temperature}
    arguments.update((name, value) for name, value in wanted.items() if value not in ("", None))
    if isinstance(given, Credential):
        arguments["api_key"] = given.given
        if callable(given.given):
            if provider not in _ROTATING:
                raise ConfigurationError(
                    f"{key.provider} takes api_key as text; a function that gives it is for "
                    f"{', '.join(_ROTATING)}"
                )
            arguments["api_key"] = partial(secret_of, given, key.provider)

    def make() -> ChatModel:
        return _make(key.model, arguments)

    # In a thread, for the first import takes seconds. It shows whether the configuration will do.
    await anyio.to_thread.run_sync(make)
    return LangChainClient(key, make)


#: Those of LangChain's providers that take a function as API key.
_ROTATING = ("openai", "azure_openai")


def _make(model: str, arguments: Options) -> ChatModel:
    try:
        init_chat_model = import_module("langchain.chat_models").init_chat_model
        made = init_chat_model(model, **arguments)
        if _shares_connections(made):
            # LangChain shares one client among all models of an endpoint, and so among loops.
            client = http_client(arguments["timeout"])
            made = init_chat_model(model, **arguments, http_async_client=client)
        if "stream_usage" in type(made).model_fields and "stream_usage" not in arguments:
            made.stream_usage = True  # which it leaves out where a base_url is given
    except ImportError as error:
        fault = (
            f"{error.name or 'a package'} is not installed; LangChain's models need "
            "`pip install 'asynchistory[langchain]'` and the package of their provider, such as "
            "langchain-openai"
        )
    except Exception as error:
        fault = (
            f"LangChain refuses it ({type(error).__name__}); check the provider, the model's name "
            "and the options, or call init_chat_model() with them to see more"
        )
    else:
        return made
    raise ConfigurationError(fault)  # without a context, which may quote a secret


def _shares_connections(made: ChatModel) -> bool:
    """Whether it is one of those built on OpenAI's client."""
    return hasattr(made, "root_async_client") and hasattr(made, "http_async_client")
