"""The loopback server: the official ``openai`` package is what proves that it speaks the format."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio

from asynchistory import NotOpenError
from asynchistory.errors import InvalidInputError, LifecycleError
from asynchistory.testing import CallTool, Fault, Gate, LoopbackLLM, Reply, Signal

openai = pytest.importorskip("openai", reason="openai is the client that these tests trust")
pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

HI: list[Any] = [{"role": "user", "content": "Hi, Zoë 🎈"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]
TWO_CALLS = Reply(
    tool_calls=[CallTool("weather", {"city": "Tromsø"}), CallTool("time", {"zone": "UTC"}, id="t")]
)
WAIT = 30  # seconds until a test gives up that should have been told


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes clients of a server that do not look at the environment and do not try again."""
    clients = []

    def connect_to(server: LoopbackLLM, **options: Any) -> Any:
        http = openai.DefaultHttpxClient(trust_env=False)
        options = {"api_key": "sk-any", "max_retries": 0, "http_client": http, **options}
        clients.append(openai.OpenAI(base_url=server.url, **options))
        return clients[-1]

    yield connect_to
    for client in clients:
        client.close()


def connect_async(server: LoopbackLLM) -> Any:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(
        base_url=server.url, api_key="sk-any", max_retries=0, http_client=http
    )


def ask(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(
        model="m", messages=options.pop("messages", HI), **options
    )


def collect(stream: Any, events: list[Any]) -> None:
    for event in stream:
        events.append(event)


def put_together(chunks: list[Any]) -> tuple[str, list[list[str]]]:
    """The text and the calls [id, name, arguments] of a stream."""
    text, calls = "", {}
    for delta in (choice.delta for chunk in chunks for choice in chunk.choices):
        text += delta.content or ""
        for part in delta.tool_calls or ():
            call = calls.setdefault(part.index, [part.id, part.function.name, ""])
            call[2] += part.function.arguments
    return text, [calls[index] for index in sorted(calls)]


# -- the format


def test_a_plain_answer(connect: Callable[..., Any]) -> None:
    with LoopbackLLM() as llm:
        done = ask(connect(llm))

    [choice] = done.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "You said: Hi, Zoë 🎈"
    assert (choice.finish_reason, done.object, done.model) == ("stop", "chat.completion", "m")
    assert done._request_id == "req_1"
    assert choice.message.tool_calls is None


def test_a_streamed_answer(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(Reply("Grüße aus Tromsø", chunk_size=3)) as llm:
        chunks = list(ask(connect(llm), stream=True))

    assert chunks[0].choices[0].delta.role == "assistant"
    assert put_together(chunks) == ("Grüße aus Tromsø", [])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 7 + ["stop"]
    assert {(chunk.id, chunk.object) for chunk in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk")
    }
    assert not any(chunk.usage for chunk in chunks)


def test_the_same_usage_plain_and_streamed(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(Reply("Hello there", reasoning="Hmm, who?")) as llm:
        client = connect(llm)
        plain = ask(client)
        *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})

    assert last.choices == []
    assert plain.usage == last.usage
    assert not any(chunk.usage for chunk in chunks)
    assert plain.usage.completion_tokens == 6  # 9 and 11 bytes, at 4 bytes a token
    assert plain.usage.completion_tokens_details.reasoning_tokens == 3
    assert plain.usage.prompt_tokens_details.cached_tokens == 0
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + 6
    assert plain.choices[0].message.reasoning_content == "Hmm, who?"


def test_a_usage_of_ones_own(connect: Callable[..., Any]) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    with LoopbackLLM([Reply("a", usage=usage), Reply("b", usage={})]) as llm:
        client = connect(llm)

        assert ask(client).usage.total_tokens == 9
        assert ask(client).usage is None


def test_parallel_tool_calls_plain_and_streamed(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(TWO_CALLS) as llm:
        client = connect(llm)
        [choice] = ask(client, tools=TOOLS).choices
        chunks = list(ask(client, tools=TOOLS, stream=True))

    said = [
        [call.id, call.function.name, call.function.arguments] for call in choice.message.tool_calls
    ]
    assert said == [
        ["call_1_0", "weather", '{"city": "Tromsø"}'],
        ["t", "time", '{"zone": "UTC"}'],
    ]
    assert choice.message.content is None
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    said[0][0] = "call_2_0"
    assert put_together(chunks) == ("", said)
    fragments = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert [part.index for part in fragments] == [0, 0, 0, 0, 1, 1, 1]
    assert [part.id for part in fragments[:2]] == ["call_2_0", None]


def test_openais_own_stream_helper(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(TWO_CALLS) as llm:
        asked = {"model": "m", "messages": HI, "tools": TOOLS}
        with connect(llm).chat.completions.stream(**asked) as events:
            message = events.get_final_completion().choices[0].message

    assert [call.function.name for call in message.tool_calls] == ["weather", "time"]


def test_a_conversation_with_tools(connect: Callable[..., Any]) -> None:
    with LoopbackLLM([TWO_CALLS, Reply("Cold, and late.")]) as llm:
        client = connect(llm)
        message = ask(client, tools=TOOLS).choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "-3"}
            for call in message.tool_calls
        ]
        messages = [*HI, message.model_dump(exclude_none=True), *results]
        final = ask(client, messages=messages, tools=TOOLS)

    assert final.choices[0].message.content == "Cold, and late."
    assert [request.body["messages"][-1]["role"] for request in llm.requests] == ["user", "tool"]


def test_a_script_that_works_answers_out(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(lambda request: Reply(f"{request['temperature']:.1f}")) as llm:
        assert ask(connect(llm), temperature=0.5).choices[0].message.content == "0.5"


def test_the_default_repeats_text_parts(connect: Callable[..., Any]) -> None:
    parts = [{"type": "text", "text": "one, "}, {"type": "text", "text": "two"}]
    with LoopbackLLM() as llm:
        client = connect(llm)
        said = ask(client, messages=[{"role": "user", "content": parts}])
        nothing = ask(client, messages=[{"role": "system", "content": "Be brief."}])

    assert said.choices[0].message.content == "You said: one, two"
    assert nothing.choices[0].message.content == "You said: "


def test_models(connect: Callable[..., Any]) -> None:
    with LoopbackLLM() as llm:
        assert [model.id for model in connect(llm).models.list()] == ["loopback"]


@pytest.mark.anyio
async def test_the_async_client() -> None:
    with LoopbackLLM(TWO_CALLS) as llm:
        async with connect_async(llm) as client:
            plain = await ask(client, tools=TOOLS)

    assert [call.id for call in plain.choices[0].message.tool_calls] == ["call_1_0", "t"]


def test_the_async_client_streamed() -> None:
    # On trio, openai leaves async generators behind, which is a warning.
    async def talk(llm: LoopbackLLM) -> list[Any]:
        async with connect_async(llm) as client:
            return [chunk async for chunk in await ask(client, tools=TOOLS, stream=True)]

    with LoopbackLLM(TWO_CALLS) as llm:
        chunks = asyncio.run(talk(llm))

    assert [call[1] for call in put_together(chunks)[1]] == ["weather", "time"]


def test_the_bytes_on_the_wire_from_trio() -> None:
    async def talk(url: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            request = {"model": "m", "messages": HI, "stream": True}
            return await client.post(f"{url}/chat/completions", json=request)

    with LoopbackLLM(Reply("Yes.")) as llm:
        response = trio.run(talk, llm.url)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    deltas = [event["choices"][0]["delta"] for event in parsed]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Yes."}, {}]


# -- what is refused


def call_then(*messages: dict[str, Any]) -> list[Any]:
    function = {"name": "weather", "arguments": "{}"}
    call = {"id": "c1", "type": "function", "function": function}
    return [*HI, {"role": "assistant", "tool_calls": [call]}, *messages]


@pytest.mark.parametrize(
    ("changes", "said", "param"),
    [
        ({"model": None}, "you must provide a model parameter", None),
        ({"messages": None}, "Missing required parameter: 'messages'.", "messages"),
        ({"messages": "Hi"}, "Invalid type for 'messages'", "messages"),
        ({"messages": []}, "Invalid 'messages': empty array", "messages"),
        ({"messages": ["Hi"]}, "Invalid type for 'messages[0]'", "messages[0]"),
        ({"messages": [{"role": "me"}]}, "Invalid value for the role", "messages[0].role"),
        ({"stream_options": {}}, "only allowed when 'stream' is enabled", "stream_options"),
        ({"n": 2}, "gives one choice", "n"),
        ({"messages": call_then()}, "did not have response messages: c1", "messages"),
        (
            {"messages": call_then(*HI)},
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            "c1",
            "messages.[2].role",
        ),
        (
            {"messages": call_then({"role": "tool", "tool_call_id": "c2"})},
            "'tool_call_id' of 'c2' not found",
            "messages.[2].tool_call_id",
        ),
        (
            {"messages": [*HI, {"role": "tool", "tool_call_id": "c1"}]},
            "messages with role 'tool' must be a response to a preceeding message",
            "messages.[1].role",
        ),
    ],
)
def test_requests_that_the_api_refuses(
    connect: Callable[..., Any], changes: dict[str, Any], said: str, param: str | None
) -> None:
    with LoopbackLLM([Reply("the script is still whole")]) as llm:
        client = connect(llm)
        with pytest.raises(openai.BadRequestError) as caught:
            client.post(
                "/chat/completions", body={"model": "m", "messages": HI} | changes, cast_to=object
            )
        assert said in caught.value.message
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
        assert ask(client).choices[0].message.content == "the script is still whole"


def test_requests_that_are_no_request() -> None:
    with LoopbackLLM() as llm, httpx.Client(base_url=llm.url, trust_env=False) as client:
        no_json = client.post("/chat/completions", content=b"{")
        answers = [no_json, client.post("/nowhere"), client.get("/chat/completions")]

    assert [answer.status_code for answer in answers] == [400, 404, 405]
    assert "could not parse the JSON body" in no_json.json()["error"]["message"]
    assert llm.requests[0].body is None


def test_another_key_is_refused_and_never_shown(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(api_key="sk-right") as llm:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(connect(llm, api_key="sk-wrong"))
        assert ask(connect(llm, api_key="sk-right")).choices
        missing = httpx.get(f"{llm.url}/models", trust_env=False)

    assert caught.value.code == "invalid_api_key"
    assert "didn't provide an API key" in missing.json()["error"]["message"]
    assert llm.requests[0].headers["authorization"] == "Bearer sk-wrong"
    assert "sk-" not in f"{caught.value} {llm!r} {llm.requests!r}"


# -- what goes wrong


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        (Fault.unauthorized(), openai.AuthenticationError, "invalid_api_key"),
        (Fault.rate_limited(), openai.RateLimitError, "rate_limit_exceeded"),
        (Fault.quota_exhausted(), openai.RateLimitError, "insufficient_quota"),
        (Fault.server_error(), openai.InternalServerError, None),
        (Fault.unavailable(), openai.InternalServerError, None),
        (
            Fault.status(404, "No such model.", code="model_not_found"),
            openai.NotFoundError,
            "model_not_found",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    connect: Callable[..., Any], fault: Fault, error: type, code: str, stream: bool
) -> None:
    with LoopbackLLM(fault) as llm, pytest.raises(error) as caught:
        ask(connect(llm), stream=stream)

    assert fault.error is not None
    assert (caught.value.status_code, caught.value.code) == (fault.error.status, code)
    assert caught.value.request_id == "req_1"


def test_a_client_that_tries_again_gets_the_next_reply(connect: Callable[..., Any]) -> None:
    script = [
        Fault.rate_limited(),
        Fault.status(503, headers={"retry-after-ms": "1"}),
        Reply("Yes."),
    ]
    with LoopbackLLM(script) as llm:
        assert ask(connect(llm, max_retries=2)).choices[0].message.content == "Yes."
        assert llm.count == 3


def test_a_script_that_fails_is_not_tried_again(connect: Callable[..., Any]) -> None:
    def fails(request: dict[str, Any]) -> Reply:
        raise KeyError("city")

    for script, said in (
        ([], "no further reply"),
        (fails, "KeyError: 'city'"),
        ([3], "gave a int"),
    ):
        with LoopbackLLM(script) as llm:
            with pytest.raises(openai.InternalServerError, match=said):
                ask(connect(llm, max_retries=2))
            assert llm.count == 1


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        (Fault.malformed(), json.JSONDecodeError),
        (Fault.cut(), openai.APIConnectionError),
        (Fault.wrong_length(), openai.APIConnectionError),
        (Fault.error_event(), openai.InternalServerError),
        (Fault.hang_up(), openai.APIConnectionError),
    ],
)
def test_a_plain_answer_that_goes_wrong(
    connect: Callable[..., Any], fault: Fault, errors: type[Exception]
) -> None:
    with LoopbackLLM([fault, Reply("Yes.")]) as llm:
        client = connect(llm)
        with pytest.raises(errors):
            ask(client)
        assert ask(client).choices[0].message.content == "Yes."


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        (Fault.malformed, {"JSONDecodeError"}),
        (Fault.cut, {"APIConnectionError", "RemoteProtocolError"}),  # the latter before openai 3
        (Fault.error_event, {"APIError"}),
    ],
)
@pytest.mark.parametrize("after", [0, 2, 99])
def test_a_stream_that_goes_wrong(
    connect: Callable[..., Any], fault: Callable[..., Fault], errors: set[str], after: int
) -> None:
    events: list[Any] = []
    with LoopbackLLM(fault(after=after, reply=Reply("four", chunk_size=1))) as llm:
        stream = ask(connect(llm), stream=True)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whose it is depends on openai
            collect(stream, events)

    assert type(caught.value).__name__ in errors
    assert len(events) == min(after, 6)


# -- time, without sleeping


def test_a_gate_holds_the_first_token_back(connect: Callable[..., Any]) -> None:
    gate = Gate()
    with LoopbackLLM(Reply("Yes.", gate=gate, gate_after=1)) as llm:
        stream = iter(ask(connect(llm), stream=True))
        assert next(stream).choices[0].delta.role == "assistant"
        assert gate.reached.wait(WAIT)
        gate.open()
        assert next(stream).choices[0].delta.content == "Yes."
        assert len(list(stream)) == 1
        assert llm.requests[0].ended.wait(WAIT)
        assert llm.requests[0].answered


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        lambda gate: Fault.hang(gate),
        lambda gate: Reply("Never", gate=gate),
        lambda gate: Reply("Never", gate=gate, gate_after=2),
    ],
    ids=["hang", "before", "amid"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_server_sees_that_a_client_gives_up(
    answer: Callable[[Gate], Reply | Fault], stream: bool
) -> None:
    gate = Gate()
    request = {"model": "m", "messages": HI, "stream": stream}
    with LoopbackLLM(answer(gate)) as llm:
        async with httpx.AsyncClient(trust_env=False) as client, anyio.create_task_group() as group:
            group.start_soon(lambda: client.post(f"{llm.url}/chat/completions", json=request))
            await gate.reached.wait_async()
            group.cancel_scope.cancel()
        await llm.requests[0].ended.wait_async()
        assert not llm.requests[0].answered


def test_a_hung_server_that_dies(connect: Callable[..., Any]) -> None:
    gate = Gate()
    with LoopbackLLM(Fault.hang(gate)) as llm, ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, connect(llm))
        assert gate.reached.wait(WAIT)
        gate.open()
        assert isinstance(asking.exception(WAIT), openai.APIConnectionError)


@pytest.mark.parametrize("stream", [False, True])
def test_stopping_cuts_what_is_open(connect: Callable[..., Any], stream: bool) -> None:
    gate = Gate()
    with ThreadPoolExecutor() as pool:
        with LoopbackLLM(Reply("Never", gate=gate)) as llm:
            client = connect(llm)
            asking = pool.submit(lambda: list(ask(client, stream=stream)))
            assert gate.reached.wait(WAIT)
        assert asking.exception(WAIT) is not None

    assert llm.requests[0].ended.is_set()
    assert not llm.requests[0].answered


def test_many_threads_at_once(connect: Callable[..., Any]) -> None:
    gate, number = Gate(), 20

    def answer_when_all_are_there(request: dict[str, Any]) -> Reply:
        if llm.count == number:
            gate.open()
        return Reply(request["messages"][0]["content"], gate=gate)

    with LoopbackLLM(answer_when_all_are_there) as llm, ThreadPoolExecutor(number) as pool:
        client = connect(llm)

        def said(index: int) -> str:
            messages = [{"role": "user", "content": f"{index}"}]
            return str(ask(client, messages=messages).choices[0].message.content)

        assert list(pool.map(said, range(number))) == [str(index) for index in range(number)]

    assert {request.number for request in llm.requests} == set(range(1, number + 1))


def test_a_client_that_leaves_amid_its_request_is_no_request() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{"
    with LoopbackLLM() as llm:
        with socket.create_connection(("127.0.0.1", httpx.URL(llm.url).port)) as peer:
            peer.sendall(head)
            peer.shutdown(socket.SHUT_WR)
            assert b"200" not in peer.recv(100)
        assert httpx.get(f"{llm.url}/models", trust_env=False).is_success
        assert llm.count == 1


# -- a server's life


def test_nothing_is_left_running(connect: Callable[..., Any]) -> None:
    before = threading.enumerate()
    with LoopbackLLM() as llm:
        client = connect(llm)
        ask(client)  # and the connection stays open
        assert len(threading.enumerate()) == len(before) + 1

    assert threading.enumerate() == before
    with pytest.raises(openai.APIConnectionError):
        ask(client)


def test_stopped_before_it_has_begun() -> None:
    before = threading.enumerate()
    for _ in range(50):
        with LoopbackLLM():
            pass
    assert threading.enumerate() == before


def test_stopped_with_connections_that_nobody_accepted() -> None:
    for _ in range(20):
        with LoopbackLLM() as llm:
            port = httpx.URL(llm.url).port
            peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        for peer in peers:
            peer.close()
    gc.collect()  # a transport that was left open warns, and warnings are errors


def test_a_server_is_entered_once_and_has_an_address_from_then_on() -> None:
    llm = LoopbackLLM()
    with pytest.raises(NotOpenError):
        _ = llm.url
    assert repr(llm) == "<LoopbackLLM not entered, 0 requests>"
    with llm:
        assert llm.url in repr(llm)
    with pytest.raises(LifecycleError, match="runs once"):
        llm.__enter__()


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"chunk_size": 0}, {"gate_after": -1}):
        with pytest.raises(InvalidInputError):
            Reply("Yes.", **wrong)  # type: ignore[arg-type]


def test_signals_wake_whoever_waits() -> None:
    signal, awake = Signal(), []

    async def waits() -> None:
        await signal.wait_async()
        await signal.wait_async()  # set already: at once
        awake.append(loop_name())

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(anyio.run, waits, backend=name) for name in ("asyncio", "trio")]
        waiting.append(pool.submit(signal.wait, WAIT))
        assert not signal.is_set()
        signal.set()
        assert [done.result(WAIT) for done in waiting] == [None, None, True]

    assert sorted(awake) == ["asyncio", "trio"]


def loop_name() -> str:
    return "trio" if trio.lowlevel.in_trio_run() else "asyncio"


def test_importing_loads_no_server_and_says_what_is_missing() -> None:
    program = """
import sys
from asynchistory.testing import LoopbackLLM, Reply
LoopbackLLM(Reply("Yes."))
assert not {"uvicorn", "h11", "httpx", "trio"} & sys.modules.keys()
sys.modules["uvicorn"] = None
try:
    LoopbackLLM().__enter__()
except ModuleNotFoundError as error:
    assert "pip install 'asynchistory[demo]'" in str(error)
else:
    raise AssertionError("it started without uvicorn")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_the_public_door() -> None:
    from asynchistory import testing

    tree = ast.parse(Path(testing.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: str(node.module).removeprefix("asynchistory.testing.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("asynchistory.testing")
        for alias in node.names
    }
    assert seen == testing._HOMES
    assert all(getattr(testing, name) is not None for name in seen)
    assert set(seen) <= set(dir(testing))
    with pytest.raises(AttributeError):
        _ = testing.nothing
