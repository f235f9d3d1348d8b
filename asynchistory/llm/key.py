"""Which configuration an LLM instance is for: the key that it is created once for."""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Awaitable, Callable, Hashable, Mapping
from inspect import isawaitable
from typing import Any, NamedTuple, NoReturn, TypeAlias
from urllib.parse import urlsplit

from asynchistory.codec import encode_json
from asynchistory.errors import InvalidInputError, LLMAuthenticationError

#: Gives the secret of the moment, None where there is none.
GiveKey: TypeAlias = Callable[[], str | Awaitable[str | None] | None]
#: A secret, or a function, async or not, that gives the one of the moment. None: the environment's.
ApiKey: TypeAlias = str | GiveKey | None

#: Seconds to wait for each piece of an answer.
DEFAULT_TIMEOUT = 60.0
#: Stands for an endpoint that is none, or has credentials, a query or a fragment.
REFUSED = "<refused>"
#: Tells secrets apart inside this process without showing anything of them.
_SALT = os.urandom(32)


class ClientKey(NamedTuple):
    """What one LLM instance is for. It holds no secret.

    Attributes:
        provider: such as ``openai``.
        model: the model's name, as the provider knows it.
        temperature: None leaves it to the provider.
        base_url: the endpoint, "" for the provider's own.
        options: tells further options apart; "" for none.
        credential: tells credentials apart; "" for the environment's.
    """

    provider: str
    model: str
    temperature: float | None = None
    base_url: str = ""
    options: str = ""
    credential: Hashable = ""


class Credential:
    """An API key, or the function that gives it, of which nothing is shown.

    It takes whatever it is given: a refusal here would stand in a traceback whose
    variables show what was refused. Called, it gives the secret of the moment.
    """

    __slots__ = ("given",)

    def __init__(self, given: Any) -> None:
        self.given: Any = given

    def __repr__(self) -> str:
        return "<API key>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled; give it anew where it is needed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and bool(self.given == other.given)

    def __hash__(self) -> int:
        try:
            return hash(self.given)
        except TypeError:  # a function object of the caller's that is equal to others
            return id(self.given)

    def __call__(self) -> Any:
        """The secret of the moment, or what has to be awaited for it."""
        return self.given() if callable(self.given) else self.given

    def identity(self) -> Hashable:
        """What stands for it in a key.

        Raises:
            InvalidInputError: it is neither text nor a function.
        """
        if callable(self.given):
            # The function itself, kept by the key: an id() is given again after its death, and
            # the secrets that it gives may change from call to call.
            return self
        if not isinstance(self.given, str) or not self.given:
            raise InvalidInputError("api_key must be text, a function that gives it, or None")
        secret = self.given.encode("utf-8", "surrogatepass")
        return hmac.digest(_SALT, secret, "sha256")[:16].hex()


class Options(dict[str, Any]):
    """Further options, of which only the names are shown: a value may be a secret."""

    def __repr__(self) -> str:
        return f"<options {', '.join(self)}>"


def client_key(
    provider: str,
    model: str,
    temperature: float | None = None,
    base_url: str | None = None,
    api_key: ApiKey = None,
    options: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> ClientKey:
    """The key of a configuration: equal configurations have equal keys.

    Raises:
        InvalidInputError: the temperature or timeout is no finite number, the provider or model
            no text, or an option is not plain JSON.
    """
    # In place of what was given, so that no traceback shows it among its variables.
    api_key, base_url, options = seal(api_key), endpoint(base_url), Options(options or {})
    seconds = finite(timeout, "timeout")
    if seconds <= 0:
        raise InvalidInputError("timeout must be more than 0 seconds")
    if seconds != DEFAULT_TIMEOUT:
        options["timeout"] = seconds
    return ClientKey(
        _name(provider),
        _name(model),
        None if temperature is None else finite(temperature, "temperature"),
        base_url or "",
        _fingerprint(options) if options else "",
        api_key.identity() if api_key is not None else "",
    )


def seal(api_key: ApiKey) -> Credential | None:
    """An API key as one that does not show. Refuses nothing."""
    return api_key if api_key is None or isinstance(api_key, Credential) else Credential(api_key)


def endpoint(base_url: str | None) -> str | None:
    """An endpoint as it stands in a key; :data:`REFUSED` if it may hold credentials."""
    if base_url is None or base_url is REFUSED:
        return base_url
    try:
        parts = urlsplit(base_url)
        plain = not ("@" in parts.netloc or parts.query or parts.fragment)
    except (ValueError, TypeError, AttributeError):
        plain = False
    return base_url.rstrip("/") if plain and isinstance(base_url, str) else REFUSED


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError("provider and model must be text, such as 'openai' and 'gpt-4o'")
    return str.__str__(value)  # also of an enum's member


def finite(value: object, name: str) -> float:
    """A number as float, so that equal ones are the same.

    Raises:
        InvalidInputError: it is no number, infinite or NaN.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value) + 0.0  # -0.0 is 0.0
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InvalidInputError(f"{name} must be a finite number, or be left out for the default")


def _fingerprint(options: Mapping[str, Any]) -> str:
    try:
        text = encode_json(dict(sorted(options.items())), "an LLM's options")
    except InvalidInputError as error:
        reason = str(error)
    else:
        return hmac.digest(_SALT, text.encode(), "sha256")[:16].hex()
    # Raised here, so that the variables of those who refused it are not in the traceback.
    raise InvalidInputError(reason)


async def secret_of(api_key: GiveKey, provider: str) -> str:
    """The secret of the moment, "" where there is none.

    Raises:
        LLMAuthenticationError: it cannot be had, or no header could carry it.
    """
    try:
        given = api_key()
        if isawaitable(given):
            given = await given
    except Exception as error:
        fault = f"the function that gives the API key raised {type(error).__name__}; mend it"
    else:
        if given is None:
            return ""
        if isinstance(given, str) and (secret := given.strip()).isascii() and secret.isprintable():
            return secret
        fault = "the API key is no text, or has characters that no header can carry; set it again"
        given = secret = ""
    # Without a context: what others raise may quote the secret.
    raise LLMAuthenticationError(fault, provider=provider)
