"""Which configuration an LLM instance is for: the key that it is created once for."""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from asynchistory.codec import encode_json
from asynchistory.environment import Secret
from asynchistory.errors import InvalidInputError

#: A secret, or a function that gives the one of the moment. None: the environment's.
ApiKey: TypeAlias = str | Callable[[], str] | None

#: Tells credentials apart inside this process without showing anything of them.
_SALT = os.urandom(32)


class ClientKey(NamedTuple):
    """What one LLM instance is for. It holds no secret.

    Attributes:
        provider: such as ``openai``.
        model: the model's name, as the provider knows it.
        temperature: None leaves it to the provider.
        base_url: the endpoint, "" for the provider's own.
        options: further options, as JSON.
        credential: tells credentials apart; "" for the environment's.
    """

    provider: str
    model: str
    temperature: float | None = None
    base_url: str = ""
    options: str = ""
    credential: str = ""


def hidden(api_key: ApiKey) -> ApiKey:
    """The same, and no repr shows it."""
    return Secret(api_key) if isinstance(api_key, str) else api_key


def client_key(
    provider: str,
    model: str,
    temperature: float | None = None,
    base_url: str | None = None,
    api_key: ApiKey = None,
    options: Mapping[str, Any] | None = None,
) -> ClientKey:
    """The key of a configuration: equal configurations have equal keys.

    Raises:
        InvalidInputError: the temperature is no finite number, the provider or model no text,
            or an option is not plain JSON.
    """
    if type(provider) is not str or type(model) is not str or not provider or not model:
        raise InvalidInputError("provider and model must be text, such as 'openai' and 'gpt-4o'")
    if temperature is not None:
        temperature = _temperature(temperature)
    return ClientKey(
        provider,
        model,
        temperature,
        base_url.rstrip("/") if base_url else "",
        _options(options) if options else "",
        _credential(api_key) if api_key is not None else "",
    )


def _temperature(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInputError("temperature must be a finite number, or None for the default")
    return float(value) + 0.0  # -0.0 is 0.0


def _options(options: Mapping[str, Any]) -> str:
    return encode_json(dict(sorted(options.items())), "an LLM's options")


def _credential(api_key: str | Callable[[], str]) -> str:
    if callable(api_key):
        # The function is the identity: what it gives may change from call to call.
        return f"callable-{id(api_key):x}"
    if not isinstance(api_key, str) or not api_key:
        raise InvalidInputError("api_key must be text, a function that gives it, or None")
    return hmac.digest(_SALT, api_key.encode(), "sha256")[:8].hex()
