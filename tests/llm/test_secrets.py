"""Canaries: what a factory is given as a secret shows nowhere, whatever happens."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from asynchistory import (
    AsyncHistoryError,
    ClientConfig,
    Conversation,
    LLMClient,
    LLMFactory,
    ScriptedClient,
    open_history,
    register_provider,
)
from asynchistory.llm.key import Credential, client_key
from asynchistory_compat import (
    Conversation as SyncConversation,
    HistoryManager,
    LLMFactory as SyncFactory,
)

CANARY = "sk-canary-0123456789"


def secret() -> str:
    return CANARY


async def fetch() -> str:
    return CANARY


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged."""
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def shown(error: BaseException) -> str:
    """All that a crash reporter could send: messages, attributes and variables, to the end."""
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    while error is not None:
        text += f"{error} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return text


#: Arguments with the canary in them that cannot be used.
REFUSED: dict[str, dict[str, Any]] = {
    "temperature": {"api_key": CANARY, "temperature": float("nan")},
    "timeout": {"api_key": CANARY, "timeout": 0},
    "model": {"api_key": CANARY, "model": ""},
    "option": {"api_key": CANARY, "seed": float("inf")},
    "option with a secret": {"header": [CANARY, float("nan")]},
    "key as bytes": {"api_key": CANARY.encode()},
    "key in a list": {"api_key": [CANARY]},
    "key in the endpoint": {"base_url": f"https://me:{CANARY}@example.com/v1"},
    "key as user": {"base_url": f"https://{CANARY}@example.com/v1"},
    "key in the query": {"base_url": f"https://example.com/v1?key={CANARY}"},
    "key behind #": {"base_url": f"https://example.com/v1#{CANARY}"},
    "no endpoint": {"base_url": f"https://[{CANARY}"},
    "plain http": {"api_key": CANARY, "base_url": "http://example.com/v1"},
    "no such provider": {"api_key": CANARY, "provider": "nobody"},
    "no such provider, a function": {"api_key": secret, "provider": "nobody"},
    "a build that fails": {"api_key": CANARY, "provider": "fails"},
    "an async build that fails": {"api_key": CANARY, "provider": "fails later", "header": CANARY},
}


def fails(config: ClientConfig) -> LLMClient:
    raise RuntimeError(f"with {config!r}")


async def fails_later(config: ClientConfig) -> LLMClient:
    await anyio.lowlevel.checkpoint()
    return fails(config)


register_provider("fails", fails)
register_provider("fails later", fails_later)


async def by_get(factory: LLMFactory, provider: str, model: str, arguments: dict[str, Any]) -> None:
    refusing = arguments  # what this frame shows is this test's own, and left out below
    await factory.get(provider, model, **refusing)


async def by_peek(
    factory: LLMFactory, provider: str, model: str, arguments: dict[str, Any]
) -> None:
    factory.peek_client(provider, model, **arguments)
    await factory.get(provider, model, **arguments)


async def by_conversation(
    factory: LLMFactory, provider: str, model: str, arguments: dict[str, Any]
) -> None:
    known = {"temperature", "base_url", "api_key", "timeout"}
    options = {name: value for name, value in arguments.items() if name not in known}
    arguments = {name: value for name, value in arguments.items() if name in known}
    async with (
        open_history("memory://") as history,
        Conversation(
            history, factory=factory, provider=provider, model=model, options=options, **arguments
        ),
    ):
        pass


def without_this_file(error: BaseException) -> BaseException:
    """The same error; frames of tests know the canary and are left out of its traceback."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename == __file__:
        step = step.tb_next
    return error.with_traceback(step)


Ask = Callable[[LLMFactory, str, str, dict[str, Any]], Awaitable[None]]


@pytest.mark.parametrize("ask", [by_get, by_peek, by_conversation])
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.anyio
async def test_no_refusal_shows_a_secret(case: str, ask: Ask, log: io.StringIO) -> None:
    factory = LLMFactory()
    arguments = dict(REFUSED[case])
    provider, model = arguments.pop("provider", "openai"), arguments.pop("model", "m")
    with pytest.raises(AsyncHistoryError) as caught:
        await ask(factory, provider, model, arguments)
    assert "canary" not in shown(without_this_file(caught.value))
    assert "canary" not in log.getvalue()


def test_the_synchronous_twin_takes_the_same_arguments() -> None:
    def taken(get: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(get).parameters.values()
        return [(f"{one.name}: {one.annotation}", one.default) for one in parameters]

    assert taken(SyncFactory.get) == taken(LLMFactory.get) == taken(LLMFactory.peek_client)


@pytest.mark.anyio
async def test_the_synchronous_twin_finds_a_hit_without_its_event_loop() -> None:
    factory = LLMFactory()
    client = await factory.get("scripted", "m", temperature=0, api_key=CANARY, seed=1)
    # On this loop's own thread, where a call into another loop would warn.
    assert (
        SyncFactory(factory).get("scripted", "m", temperature=0, api_key=CANARY, seed=1) is client
    )


@pytest.mark.parametrize("case", REFUSED)
def test_no_refusal_of_the_synchronous_twin_shows_one(case: str) -> None:
    factory = SyncFactory(LLMFactory())
    arguments = dict(REFUSED[case])
    provider, model = arguments.pop("provider", "openai"), arguments.pop("model", "m")
    with pytest.raises(AsyncHistoryError) as caught:
        factory.get(provider, model, **arguments)
    assert "canary" not in shown(without_this_file(caught.value))


@pytest.mark.parametrize("of", [Conversation, SyncConversation])
def test_a_conversation_that_is_refused_shows_none(of: Any) -> None:
    def tool() -> None:
        """Is there twice."""

    with pytest.raises(AsyncHistoryError) as caught:
        of(
            HistoryManager("memory://") if of is SyncConversation else None,
            provider="openai",
            model="m",
            api_key=CANARY,
            base_url=f"https://{CANARY}@x",
            options={"header": CANARY},
            tools=[tool, tool],
        )
    assert "canary" not in shown(without_this_file(caught.value))


@pytest.mark.parametrize("given", [CANARY, secret, fetch], ids=["text", "function", "async"])
@pytest.mark.anyio
async def test_nothing_that_is_held_shows_a_secret(given: Any) -> None:
    factory = LLMFactory()
    client = await factory.get("openai", "m", base_url="https://x/v1", api_key=given, top_p=0.5)
    assert await factory.get("openai", "m", base_url="https://x/v1", api_key=given, top_p=0.5)
    await factory.get("openai", "m", api_key=given)
    key, entry = client.key, next(iter(factory._held.by_key.values()))
    for one in (factory, client, key, key._asdict(), entry, factory.get_cache_stats()):
        assert "canary" not in f"{one} {one!r}"
    for one in (factory, client, factory._held):
        assert "canary" not in repr(vars(one))
    for one in (factory, client, Credential(given)):
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            pickle.dumps(one)
    if given is CANARY:
        assert CANARY.encode() not in pickle.dumps(key)
        assert "canary" not in repr(copy.deepcopy(key))


@pytest.mark.anyio
async def test_a_build_is_shown_nothing_by_chance() -> None:
    configs: list[ClientConfig] = []

    def build(config: ClientConfig) -> LLMClient:
        configs.append(config)
        return ScriptedClient(config.key)

    register_provider("looks", build)
    await LLMFactory().get("looks", "m", api_key=CANARY, header=CANARY)
    [config] = configs
    assert "canary" not in f"{config} {config!r} {config.api_key!r} {config.options!r}"
    assert config.api_key() == config.options["header"] == CANARY


def test_a_key_tells_secrets_apart_and_shows_none() -> None:
    keys = [client_key("openai", "m", api_key=given) for given in (CANARY, "other", secret, fetch)]
    assert len({*keys, client_key("openai", "m")}) == 5
    assert "canary" not in repr(keys)
    assert keys[0] == client_key("openai", "m", api_key=CANARY)
