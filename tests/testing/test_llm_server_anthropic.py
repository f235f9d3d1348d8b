"""The loopback server in Anthropic's format, which the official ``anthropic`` package proves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from asynchistory.testing import CallTool, Fault, LoopbackLLM, Reply

anthropic = pytest.importorskip("anthropic", reason="the client that these tests trust")
pytest.importorskip("uvicorn", reason="the loopback server runs on uvicorn")

HI: list[Any] = [{"role": "user", "content": "Hi, Zoë 🎈"}]
TOOLS: list[Any] = [
    {"name": name, "input_schema": {"type": "object"}} for name in ("weather", "time")
]
TWO_CALLS = Reply(
    "Let me see.",
    reasoning="Two of them.",
    tool_calls=[CallTool("weather", {"city": "Tromsø"}), CallTool("time", {"zone": "UTC"}, id="t")],
    chunk_size=5,
)
USAGE = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 300,
    "output_tokens": 9,
    "output_tokens_details": {"thinking_tokens": 4},
}


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes clients of a server that do not look at the environment and do not try again."""
    clients = []

    def connect_to(server: LoopbackLLM, **options: Any) -> Any:
        http = anthropic.DefaultHttpxClient(trust_env=False)
        options = {"api_key": "sk-any", "max_retries": 0, "http_client": http, **options}
        clients.append(anthropic.Anthropic(base_url=server.origin, **options))
        return clients[-1]

    yield connect_to
    for client in clients:
        client.close()


def asked(**options: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 100, "messages": HI, **options}


def collect(stream: Any, events: list[Any]) -> None:
    for event in stream:
        events.append(event)


def ask(client: Any, **options: Any) -> Any:
    return client.messages.create(**asked(**options))


# -- the format


def test_a_plain_answer(connect: Callable[..., Any]) -> None:
    with LoopbackLLM() as llm:
        message = ask(connect(llm))

    assert [block.text for block in message.content] == ["You said: Hi, Zoë 🎈"]
    assert (message.id, message.type, message.role) == ("msg_1", "message", "assistant")
    assert (message.model, message.stop_reason, message.stop_sequence) == ("m", "end_turn", None)
    assert message._request_id == "req_1"


def test_a_streamed_answer_is_the_plain_one(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(TWO_CALLS) as llm:
        client = connect(llm)
        plain = ask(client, tools=TOOLS)
        with client.messages.stream(**asked(tools=TOOLS)) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()

    assert [block.type for block in plain.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, one, two = plain.content
    assert (thinking.thinking, thinking.signature) == ("Two of them.", "sig_1")
    assert text.text == "Let me see."
    assert (one.id, one.name, one.input) == ("toolu_1_0", "weather", {"city": "Tromsø"})
    assert (two.id, two.name, two.input) == ("t", "time", {"zone": "UTC"})
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_stop") == 4
    assert "input_json" in kinds
    said = [json.loads(answer.model_dump_json()) for answer in (plain, streamed)]
    text_of_plain = json.dumps(said[0]).replace("toolu_1", "toolu_2").replace("sig_1", "sig_2")
    assert json.loads(text_of_plain.replace("msg_1", "msg_2")) == said[1]


def test_the_events_on_the_wire() -> None:
    with LoopbackLLM(Reply("Yes.", tool_calls=[CallTool("f", {"a": 1})])) as llm:
        answer = httpx.post(
            f"{llm.url}/messages",
            json=asked(stream=True),
            headers={"anthropic-version": "2023-06-01"},
            trust_env=False,
        )

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["request-id"] == "req_1"
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    pairs = [event.split("\n") for event in events]
    datas = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
    assert [name.removeprefix("event: ") for name, _ in pairs] == [data["type"] for data in datas]
    assert [data["type"] for data in datas] == [
        *("message_start", "content_block_start", "ping", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta"),
        *("content_block_delta", "content_block_stop", "message_delta", "message_stop"),
    ]
    assert [data["index"] for data in datas if "index" in data] == [0, 0, 0, 1, 1, 1, 1]


def test_usage(connect: Callable[..., Any]) -> None:
    replies = [Reply("a", usage=USAGE), Reply("a", usage=USAGE), Reply("Hello there")]
    with LoopbackLLM(replies) as llm:
        client = connect(llm)
        plain = ask(client).usage
        with client.messages.stream(**asked()) as stream:
            streamed = stream.get_final_message().usage
        counted = ask(client).usage

    assert plain.model_dump(exclude_none=True) == USAGE
    assert streamed.model_dump(exclude_none=True) == USAGE
    assert counted.output_tokens == 3  # 11 bytes, at 4 bytes a token
    assert counted.input_tokens > 0


def test_a_conversation_with_tools(connect: Callable[..., Any]) -> None:
    with LoopbackLLM([TWO_CALLS, Reply("Cold, and late.")]) as llm:
        client = connect(llm)
        message = ask(client, tools=TOOLS)
        answer = {"role": "assistant", "content": [b.to_dict() for b in message.content]}
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "-3"}
            for block in message.content
            if block.type == "tool_use"
        ]
        final = ask(client, messages=[*HI, answer, {"role": "user", "content": results}])

    assert final.content[0].text == "Cold, and late."


def test_broken_arguments(connect: Callable[..., Any]) -> None:
    with LoopbackLLM(Reply(tool_calls=[CallTool("weather", '{"city": "Tro')])) as llm:
        client = connect(llm)
        # Anthropic's answers in one piece are checked; it wraps what is no object like this.
        assert ask(client).content[0].input == {"INVALID_JSON": '{"city": "Tro'}
        pieces = [
            event.delta.partial_json
            for event in ask(client, stream=True)
            if event.type == "content_block_delta"
        ]
    assert "".join(pieces) == '{"city": "Tro'


def test_models(connect: Callable[..., Any]) -> None:
    with LoopbackLLM() as llm:
        assert [model.id for model in connect(llm).models.list()] == ["loopback"]


def test_the_async_client_streamed() -> None:
    async def talk(llm: LoopbackLLM) -> Any:
        http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
        async with (
            anthropic.AsyncAnthropic(
                base_url=llm.origin, api_key="sk-any", max_retries=0, http_client=http
            ) as client,
            client.messages.stream(**asked()) as stream,
        ):
            return await stream.get_final_message()

    with LoopbackLLM(TWO_CALLS) as llm:
        message = asyncio.run(talk(llm))

    assert [block.name for block in message.content if block.type == "tool_use"] == [
        "weather",
        "time",
    ]


# -- what is refused

CALL = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}],
}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "-3"}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": None}, "messages: Field required"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["Hi"]}, "messages.0: Input should be a valid dictionary"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'Unexpected role "system"'),
        ({"messages": [CALL]}, 'messages: first message must use the "user" role'),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [user(), *HI]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [user({"text": "a"})]}, "messages.0.content.0.type: Field required"),
        (
            {"messages": [user({"type": "text", "text": " "})]},
            "messages: text content blocks must be non-empty",
        ),
        ({"temperature": 1.0}, "temperature: Extra inputs are not permitted"),
        (
            {"messages": [*HI, CALL]},
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately "
            "after: c1. Each `tool_use` block must have a corresponding `tool_result` block in "
            "the next message.",
        ),
        ({"messages": [*HI, CALL, *HI]}, "immediately after: c1"),
        (
            {"messages": [*HI, CALL, user({"type": "text", "text": "Well,"}, RESULT)]},
            "immediately after: c1",
        ),
        (
            {"messages": [user(RESULT)]},
            "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: c1.",
        ),
        (
            {"messages": [*HI, CALL, user(RESULT), CALL, user(RESULT)]},
            "messages: `tool_use` ids must be unique",
        ),
        (
            {
                "messages": [
                    *HI,
                    {"role": "assistant", "content": [{**CALL["content"][0], "input": "x"}]},  # type: ignore[dict-item]
                ]
            },
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (
            {
                "messages": [
                    *HI,
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}]},
                ]
            },
            "messages.1.content.0.thinking.signature: Field required",
        ),
    ],
)
def test_requests_that_the_api_refuses(
    connect: Callable[..., Any], changes: dict[str, Any], said: str
) -> None:
    with LoopbackLLM([Reply("the script is still whole")]) as llm:
        client = connect(llm)
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.post("/v1/messages", body=asked() | changes, cast_to=object)
        assert said in caught.value.api_message
        assert (caught.value.type, caught.value.request_id) == ("invalid_request_error", "req_1")
        assert ask(client).content[0].text == "the script is still whole"


def test_requests_that_are_no_request() -> None:
    version = {"anthropic-version": "2023-06-01"}
    with LoopbackLLM() as llm, httpx.Client(base_url=llm.url, trust_env=False) as client:
        answers = [
            client.post("/messages", content=b"{", headers=version),
            client.post("/messages", json=asked()),
            client.post("/nowhere", headers=version),
            client.get("/messages", headers=version),
        ]

    assert [answer.status_code for answer in answers] == [400, 400, 404, 405]
    said = [answer.json()["error"]["message"] for answer in answers]
    assert said[:2] == [
        "The request body is not valid JSON",
        "anthropic-version: header is required",
    ]
    assert answers[2].json()["error"]["type"] == "not_found_error"
    assert {answer.json()["type"] for answer in answers} == {"error"}


def test_an_older_version_takes_a_temperature() -> None:
    with LoopbackLLM() as llm:
        answer = httpx.post(
            f"{llm.url}/messages",
            json=asked(temperature=0.5),
            headers={"anthropic-version": "2023-06-01"},
            trust_env=False,
        )
    assert answer.status_code == 200


def test_another_key_is_refused_and_never_shown(connect: Callable[..., Any]) -> None:
    header = {"anthropic-version": "2023-06-01"}
    with LoopbackLLM(api_key="sk-right") as llm:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            ask(connect(llm, api_key="sk-wrong"))
        assert ask(connect(llm, api_key="sk-right")).content
        url = f"{llm.url}/models"
        theirs = httpx.get(url, headers={**header, "x-api-key": "sk-right"}, trust_env=False)
        missing = httpx.get(url, headers=header, trust_env=False)

    assert theirs.status_code == 200
    assert missing.json()["error"]["message"] == "x-api-key header is required"
    assert "sk-" not in f"{caught.value} {llm!r} {llm.requests!r}"


# -- what goes wrong


@pytest.mark.parametrize(
    ("fault", "error", "kind", "code"),
    [
        (Fault.unauthorized(), "AuthenticationError", "authentication_error", None),
        (Fault.rate_limited(), "RateLimitError", "rate_limit_error", None),
        (
            Fault.quota_exhausted(),
            "RateLimitError",
            "rate_limit_error",
            "enforced_spend_limit_reached",
        ),
        (Fault.server_error(), "InternalServerError", "api_error", None),
        (Fault.overloaded(), "OverloadedError", "overloaded_error", None),
        (Fault.status(402), "PaymentRequiredError", "billing_error", None),
        (Fault.status(413, code="too_big"), "ContentTooLargeError", "request_too_large", "too_big"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    connect: Callable[..., Any],
    fault: Fault,
    error: str,
    kind: str,
    code: str | None,
    stream: bool,
) -> None:
    with (
        LoopbackLLM(fault) as llm,
        pytest.raises(getattr(anthropic, error, anthropic.APIStatusError)) as caught,
    ):
        ask(connect(llm), stream=stream)

    assert fault.error is not None
    assert caught.value.status_code == fault.error.status
    assert (caught.value.type, caught.value.error_code) == (kind, code)
    assert caught.value.request_id == "req_1"
    assert caught.value.body["request_id"] == "req_1"


def test_a_client_that_tries_again_gets_the_next_reply(connect: Callable[..., Any]) -> None:
    script = [
        Fault.rate_limited(),
        Fault.status(529, headers={"retry-after-ms": "1"}),
        Reply("Yes."),
    ]
    with LoopbackLLM(script) as llm:
        assert ask(connect(llm, max_retries=2)).content[0].text == "Yes."
        assert llm.count == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.malformed(), json.JSONDecodeError),
        (Fault.cut(), anthropic.APIConnectionError),
        (Fault.wrong_length(), anthropic.APIConnectionError),
        (Fault.error_event(), anthropic.InternalServerError),
        (Fault.hang_up(), anthropic.APIConnectionError),
    ],
)
def test_a_plain_answer_that_goes_wrong(
    connect: Callable[..., Any], fault: Fault, error: type[Exception]
) -> None:
    with LoopbackLLM([fault, Reply("Yes.")]) as llm:
        client = connect(llm)
        with pytest.raises(error):
            ask(client)
        assert ask(client).content[0].text == "Yes."


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.malformed, json.JSONDecodeError),
        (Fault.cut, Exception),
        (Fault.error_event, anthropic.APIStatusError),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 99])
def test_a_stream_that_goes_wrong(
    connect: Callable[..., Any], fault: Callable[..., Fault], error: type[Exception], after: int
) -> None:
    events: list[Any] = []
    with LoopbackLLM(fault(after=after, reply=Reply("four", chunk_size=2))) as llm:
        stream = ask(connect(llm), stream=True)
        with pytest.raises(error) as caught:
            collect(stream, events)

    whole = 7  # the ping is not handed out
    assert len(events) == (after if after < 2 else whole - 1)
    if isinstance(caught.value, anthropic.APIStatusError):
        assert (caught.value.type, caught.value.request_id) == ("api_error", "req_1")
