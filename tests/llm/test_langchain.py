"""LangChain's chat models behind our port: their own fakes, and its OpenAI against real HTTP."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asynchistory import (
    ChatRequest,
    ClientCreationError,
    ConfigurationError,
    Conversation,
    LangChainClient,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMFactory,
    LLMRateLimitError,
    LLMRequestError,
    LLMResponseError,
    LLMServerError,
    Message,
    Reasoning,
    ReasoningDelta,
    Text,
    TextDelta,
    ToolCallPart,
    ToolSpec,
    Usage,
    open_history,
    register_provider,
)
from asynchistory.llm.key import client_key
from asynchistory.testing import CallTool, Fault, Gate, LoopbackLLM, Reply
from tests.faults.children import say
from tests.llm.asking import BOTH_WAYS, HI, ask
from tests.llm.talking import USAGE, weather
from tests.llm.test_forks import QUESTIONS, end_of, forked, said, talk

pytest.importorskip("langchain", reason="an extra")
pytest.importorskip("langchain_openai", reason="a package of LangChain's")
pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

KEY = "sk-canary-of-langchain"
#: It runs there alone.
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Fake(BaseChatModel):
    """Answers with a message, or with its chunks one by one."""

    chunks: list[AIMessageChunk]
    asked: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.asked.append((messages, kwargs))
        whole = self.chunks[0]
        for chunk in self.chunks[1:]:
            whole = whole + chunk
        answer = AIMessage(
            whole.content,
            tool_calls=whole.tool_calls,
            invalid_tool_calls=whole.invalid_tool_calls,
            usage_metadata=whole.usage_metadata,
            response_metadata=whole.response_metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.asked.append((messages, kwargs))
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk)


def wrapped(*chunks: AIMessageChunk) -> tuple[LangChainClient, Fake]:
    model = Fake(chunks=list(chunks))
    return LangChainClient(client_key("langchain:fake", "m"), lambda: model), model


def call(args: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"name": None, "id": None, "args": args, "index": index, **fields}


THOUGHT = [{"type": "reasoning", "reasoning": "Hm. ", "index": 0}]
CHUNKS = (
    AIMessageChunk(THOUGHT, response_metadata={"model_name": "m-2", "output_version": "v1"}),
    AIMessageChunk([{"type": "text", "text": "It is ", "index": 1}]),
    AIMessageChunk([{"type": "text", "text": "cold.", "index": 1}]),
    AIMessageChunk("", tool_call_chunks=[call('{"city": ', name="weather", id="a")]),
    AIMessageChunk("", tool_call_chunks=[call('"Oslo"}')]),
    AIMessageChunk("", tool_call_chunks=[call("oh no", 1, name="double", id="b")]),
    AIMessageChunk(
        "",
        response_metadata={"stop_reason": "tool_use"},
        usage_metadata={
            "input_tokens": 1000,
            "output_tokens": 10,
            "total_tokens": 1010,
            "input_token_details": {"cache_read": 100},
            "output_token_details": {"reasoning": 4},
        },
    ),
)
TOKENS = Usage(
    input_tokens=1000, output_tokens=10, total_tokens=1010, cached_tokens=100, reasoning_tokens=4
)


@ON_ASYNCIO
@BOTH_WAYS
@pytest.mark.anyio
async def test_an_answer_with_all_that_there_is(streamed: bool) -> None:
    client, model = wrapped(*CHUNKS)
    tools = (ToolSpec(name="weather", description="How it is."),)
    request = ChatRequest(messages=HI.messages, tools=tools, max_tokens=7)
    completion, pieces = await ask(client, streamed, request)
    arguments = '{"city": "Oslo"}' if streamed else {"city": "Oslo"}
    assert completion.message.parts == (
        Reasoning(text="Hm. "),
        Text(text="It is cold."),
        ToolCallPart(id="a", name="weather", arguments=arguments),
        ToolCallPart(id="b", name="double", arguments="oh no"),
    )
    assert completion.usage == TOKENS
    assert (completion.model, completion.finish_reason) == ("m-2", "tool_use")
    assert completion.response_time > 0
    assert pieces == (
        [ReasoningDelta("Hm. "), TextDelta("It is "), TextDelta("cold.")] if streamed else []
    )
    assert (completion.time_to_first_token is not None) == streamed
    [(messages, options)] = model.asked
    assert [message.text for message in messages] == ["Be brief.", "Hi, Zoë 🎈"]
    assert options["max_tokens"] == 7
    assert [tool["name"] for tool in options["tools"]] == ["weather"]


@ON_ASYNCIO
@BOTH_WAYS
@pytest.mark.anyio
async def test_an_answer_of_text_alone(streamed: bool) -> None:
    client, _ = wrapped(AIMessageChunk("Hello "), AIMessageChunk("there"))
    completion, pieces = await ask(client, streamed)
    assert completion.message == Message.of("assistant", "Hello there")
    assert (completion.usage, completion.finish_reason, completion.model) == (None, None, "m")
    assert pieces == ([TextDelta("Hello "), TextDelta("there")] if streamed else [])


@pytest.mark.parametrize("anyio_backend", ["trio"])
@BOTH_WAYS
@pytest.mark.anyio
async def test_on_trio_it_is_refused(streamed: bool) -> None:
    client, model = wrapped(*CHUNKS)
    with pytest.raises(ConfigurationError, match="asyncio alone"):
        await ask(client, streamed)
    assert not model.asked


# -- LangChain's OpenAI, against a server


async def connect(url: str, **options: Any) -> Any:
    arguments = {"base_url": url, "api_key": KEY, **options}
    return await LLMFactory().get("langchain:openai", "m", **arguments)


@ON_ASYNCIO
@pytest.mark.anyio
async def test_a_conversation_with_tools_is_recorded() -> None:
    look = CallTool("weather", {"city": "Oslo"}, id="a")
    script = [Reply("I look.", tool_calls=[look], usage=USAGE), Reply("It snows.", usage=USAGE)]
    with LoopbackLLM(script) as server:
        async with (
            open_history("memory://") as history,
            Conversation(
                history, factory=LLMFactory(), provider="langchain:openai", model="m",
                base_url=server.url, api_key=KEY, temperature=0.5, session_id="chat",
                tools=[weather], options={"seed": 3},
            ) as conversation,
        ):  # fmt: skip
            assert (await conversation.ask("How is it?")).text == "It snows."
            tokens = await history.get_token_statistics("chat")
            costs = await history.get_cost_statistics("chat")
    assert (tokens.calls, tokens.input_tokens, tokens.cached_tokens) == (2, 2000, 200)
    assert (tokens.output_tokens, tokens.reasoning_tokens) == (20, 8)
    assert costs.calls == 0
    first, second = (request.body for request in server.requests)
    assert (first["temperature"], first["seed"], first["model"]) == (0.5, 3, "m")
    assert first["tools"][0]["function"]["name"] == "weather"
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][2]["content"] == "snow in Oslo"


CASES = {
    "401": (Fault.unauthorized, LLMAuthenticationError, 401),
    "400 that quotes": (lambda: Fault.status(400, f"{KEY} and canary"), LLMRequestError, 400),
    "429": (lambda: Fault.rate_limited(7), LLMRateLimitError, 429),
    "500": (Fault.server_error, LLMServerError, 500),
    "cut": (lambda: Fault.cut(after=4, reply=Reply("in many words")), LLMError, None),
    "malformed": (lambda: Fault.malformed(reply=Reply("in many words")), LLMResponseError, None),
    "hang up": (Fault.hang_up, LLMConnectionError, None),
}


@ON_ASYNCIO
@BOTH_WAYS
@pytest.mark.parametrize("case", CASES)
@pytest.mark.anyio
async def test_a_fault_is_a_typed_error_that_shows_nothing(case: str, streamed: bool) -> None:
    fault, kind, status = CASES[case]
    with LoopbackLLM(fault()) as server:
        client = await connect(server.url, max_retries=0)
        with pytest.raises(LLMError) as caught:
            await ask(client, streamed)
    error = caught.value
    assert isinstance(error, kind)
    assert error.provider == "langchain:openai"
    assert error.status == status or (status, error.status) == (None, 200)
    assert error.retry_after == (7 if case == "429" else None)
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # without this frame
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "canary" not in "".join(report.format())
    assert error.__cause__ is None
    assert error.__suppress_context__


@ON_ASYNCIO
@pytest.mark.anyio
async def test_a_stream_that_is_left_early_frees_its_connection() -> None:
    gate = Gate()
    with LoopbackLLM([Reply("Never heard", gate=gate, gate_after=2), Reply("ok")]) as server:
        client = await connect(server.url)
        with anyio.fail_after(30):
            async with client.stream(HI) as events:
                assert isinstance(await anext(aiter(events)), TextDelta)
            await server.requests[0].ended.wait_async()
            assert not server.requests[0].answered
            assert (await ask(client, True))[0].message.text == "ok"


def test_one_instance_for_many_loops_and_each_call_is_sent_once() -> None:
    """As they are, LangChain's models share their connections among loops, and fail."""
    factory = LLMFactory()

    async def talk(name: str) -> None:
        client = await factory.get("langchain:openai", "m", base_url=server.url, api_key=KEY)
        for number in range(10):
            question = ChatRequest(messages=(Message.of("user", f"{name} {number}"),))
            for streamed in (False, True):
                completion, _ = await ask(client, streamed, question)
                assert completion.message.text == f"You said: {name} {number}"

    with LoopbackLLM() as server:
        for number in range(4):
            anyio.run(talk, f"one after another {number}")
        barrier = threading.Barrier(4)

        def at_once(number: int) -> None:
            barrier.wait()
            anyio.run(talk, f"at once {number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(at_once, range(4)))
        assert server.count == 8 * 20
        [entry] = factory._held.by_key.values()
        assert not entry.instance._models
    assert factory.get_cache_stats().creations == 1


# -- by configuration


@pytest.mark.anyio
async def test_it_is_made_on_both_loops_and_once() -> None:
    factory = LLMFactory()
    first = await factory.get("langchain:openai", "gpt-4o", temperature=0, api_key=KEY)
    assert await factory.get("langchain:openai", "gpt-4o", temperature=0.0, api_key=KEY) is first
    assert KEY not in f"{first!r} {first.key!r} {vars(first)!r}"


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("langchain:openai", {"no_such_option_but": [{"canary": 1}], "n": "canary"}),
        ("langchain:nobody", {}),
        ("langchain", {}),
        ("langchain:groq", {}),
        ("langchain:groq", {"api_key": lambda: KEY}),
    ],
)
@pytest.mark.anyio
async def test_what_langchain_refuses_is_a_configuration_error(
    provider: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ClientCreationError, match=r"LangChain|pip install|api_key") as caught:
        await LLMFactory().get(provider, "some-model", **{"api_key": KEY, **options})
    assert isinstance(caught.value.__cause__, ConfigurationError)
    caught.value.__traceback__ = None
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "canary" not in "".join(report.format())


@ON_ASYNCIO
@pytest.mark.anyio
async def test_a_function_gives_the_key_of_the_moment() -> None:
    keys = iter(["sk-one", "sk-two", "sk-three"])

    async def fetch() -> str:
        return next(keys)

    with LoopbackLLM() as server:
        client = await connect(server.url, api_key=fetch)
        for _ in range(2):
            await ask(client, False)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer sk-one", "Bearer sk-two"]


@ON_ASYNCIO
@pytest.mark.anyio
async def test_a_model_of_one_s_own_as_a_provider() -> None:
    model = Fake(chunks=[AIMessageChunk("mine")])
    register_provider("own", lambda config: LangChainClient(config.key, lambda: model))
    client = await LLMFactory().get("own", "m")
    assert (await client.complete(HI)).message.text == "mine"


def fork_with_a_warm_model(url: str) -> None:
    async def in_child(client: Any) -> int:
        return await talk(client, "child") + len(client._models) - 1

    async def work() -> None:
        client = await connect(url)
        wrong = await talk(client, "parent before")
        pid = forked(partial(in_child, client), "asyncio")
        wrong += await talk(client, "parent")
        say(f"{wrong} wrong, {await anyio.to_thread.run_sync(end_of, pid)} in the child")

    anyio.run(work)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="needs fork, and threads after it")
def test_a_forked_child_makes_a_model_of_its_own() -> None:
    with LoopbackLLM() as server:
        lines = said("test_langchain:fork_with_a_warm_model", server.url)
        assert server.count == 3 * QUESTIONS
    assert lines == ["0 wrong, 0 in the child"]
