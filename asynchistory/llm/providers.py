"""Which client a provider's models get, and where users put their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeAlias

import msgspec

from asynchistory import environment
from asynchistory.errors import ConfigurationError, InvalidInputError
from asynchistory.llm.key import REFUSED, ApiKey, ClientKey, GiveKey, Options, endpoint, seal
from asynchistory.llm.port import LLMClient
from asynchistory.records import JSON


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is made from.

    Attributes:
        key: what it is for.
        api_key: gives the secret of the moment, None where there is none; if its user gave an
            async function, what has to be awaited for it.
        timeout: seconds to wait for each piece of an answer.
        options: further fields of each request.
    """

    key: ClientKey
    api_key: GiveKey
    timeout: float
    options: dict[str, JSON]

    def __repr__(self) -> str:
        return f"<ClientConfig {self.key!r}>"


#: Makes a client. It opens nothing before the first request. What takes long, such as a slow
#: import, belongs into an async one.
Build: TypeAlias = Callable[[ClientConfig], LLMClient | Awaitable[LLMClient]]


def _openai(config: ClientConfig) -> LLMClient:
    from asynchistory.llm.openai import OpenAIClient

    return OpenAIClient(
        config.key, api_key=config.api_key, timeout=config.timeout, options=config.options
    )


def _anthropic(config: ClientConfig) -> LLMClient:
    from asynchistory.llm.anthropic import AnthropicClient

    return AnthropicClient(
        config.key, api_key=config.api_key, timeout=config.timeout, options=config.options
    )


def _scripted(config: ClientConfig) -> LLMClient:
    from asynchistory.llm.scripted import ScriptedClient

    return ScriptedClient(config.key)


async def _langchain(config: ClientConfig) -> LLMClient:
    from asynchistory.llm.langchain import build

    return await build(config)


_builds: dict[str, Build] = {
    "anthropic": _anthropic,
    "langchain": _langchain,
    "openai": _openai,
    "scripted": _scripted,
}


def register_provider(name: str, build: Build) -> None:
    """Have models of the provider ``name`` made by ``build``; a name can be given anew.

    It makes those of ``name:anything`` too. Instances that exist stay as they are.

    Raises:
        InvalidInputError: the name is no text, or has a colon.
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise InvalidInputError("the name of a provider must be text without a colon")
    _builds[name] = build


async def build_client(
    key: ClientKey,
    *,
    api_key: ApiKey,
    timeout: float,  # noqa: ASYNC109 - of each step of a request, not of this call
    options: dict[str, JSON],
) -> LLMClient:
    """The client of a configuration.

    Raises:
        ConfigurationError: the provider is not known, or its configuration cannot work.
    """
    api_key, options = seal(api_key), Options(options)  # which no traceback shows
    build = _builds.get(key.provider.partition(":")[0])
    if build is None:
        raise ConfigurationError(
            f"no provider {key.provider!r}; there are {', '.join(sorted(_builds))}, and "
            "register_provider() adds one"
        )
    if not key.base_url:
        key = key._replace(base_url=endpoint(environment.base_url(key.provider)) or "")
    if key.base_url is REFUSED:
        raise ConfigurationError(
            "base_url, or the endpoint in the environment, must look like https://host/v1, "
            "without credentials, ? and #; give the key as api_key"
        )
    built = build(
        ClientConfig(
            key=key,
            api_key=api_key or (lambda: environment.api_key(key.provider)),
            timeout=timeout,
            options=options,
        )
    )
    return await built if isawaitable(built) else built
