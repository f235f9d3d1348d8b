"""Which client a provider's models get, and where users put their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from asynchistory import environment
from asynchistory.errors import ConfigurationError
from asynchistory.llm.key import ApiKey, ClientKey
from asynchistory.llm.port import LLMClient
from asynchistory.records import JSON


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is made from.

    Attributes:
        key: what it is for.
        api_key: gives the secret of the moment, None where there is none.
        timeout: seconds to wait for each piece of an answer.
        options: further fields of each request.
    """

    key: ClientKey
    api_key: Callable[[], str | None]
    timeout: float
    options: dict[str, JSON]

    def __repr__(self) -> str:
        return f"<ClientConfig {self.key!r}>"


#: Makes a client. It does not wait: nothing is opened before the first request.
Build: TypeAlias = Callable[[ClientConfig], LLMClient]


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


_builds: dict[str, Build] = {
    "anthropic": _anthropic,
    "openai": _openai,
    "scripted": _scripted,
}


def register_provider(name: str, build: Build) -> None:
    """Have models of the provider ``name`` made by ``build``; a name can be given anew."""
    _builds[name] = build


def build_client(
    key: ClientKey, *, api_key: ApiKey, timeout: float, options: dict[str, JSON]
) -> LLMClient:
    """The client of a configuration.

    Raises:
        ConfigurationError: the provider is not known, or its configuration cannot work.
    """
    build = _builds.get(key.provider)
    if build is None:
        raise ConfigurationError(
            f"no provider {key.provider!r}; there are {', '.join(sorted(_builds))}, and "
            "register_provider() adds one"
        )
    if not key.base_url and (url := environment.base_url(key.provider)):
        key = key._replace(base_url=url.rstrip("/"))
    config = ClientConfig(
        key=key, api_key=_secret(key.provider, api_key), timeout=timeout, options=options
    )
    return build(config)


def _secret(provider: str, api_key: ApiKey) -> Callable[[], str | None]:
    if api_key is None:
        return lambda: environment.api_key(provider)
    return api_key if callable(api_key) else lambda: api_key
