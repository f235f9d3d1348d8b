"""What OpenAI's chat completions refuses, and in which words.

The messages are those of the API, as its errors are quoted in public issue
threads (run-llama/llama_index#10493, BerriAI/litellm#10083, miurla/morphic#136).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynchistory.testing.replies import ErrorAnswer
from asynchistory.testing.wire import RefusedError

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")


def refused(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    """A 400 with these words."""
    return RefusedError(ErrorAnswer(400, message, param=param, code=code))


def check_key(headers: Mapping[str, str], api_key: str | None) -> None:
    """Refuse a request without the key, if there is one; the key is never repeated."""
    given = headers.get("authorization")
    if api_key is None or given == f"Bearer {api_key}":
        return
    if given is None:
        message = (
            "You didn't provide an API key. You need to provide your API key in an "
            "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise RefusedError(ErrorAnswer(401, message))
    raise RefusedError(
        ErrorAnswer(401, "Incorrect API key provided.", code="invalid_api_key"),
    )


def check_request(request: Any) -> None:
    """Refuse what the API refuses and what this server cannot do.

    Raises:
        RefusedError: with the answer to give.
    """
    if not isinstance(request, dict):
        raise refused(
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, "
            "but what was sent was not valid JSON.)"
        )
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise refused("you must provide a model parameter")
    if request.get("stream_options") is not None and not request.get("stream"):
        raise refused(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
        )
    if request.get("n") not in (None, 1):
        raise refused("The loopback server gives one choice; leave 'n' out.", "n")
    _check_messages(request.get("messages"))


def _check_messages(messages: Any) -> None:
    if messages is None:
        raise refused(
            "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
        )
    if not isinstance(messages, list):
        raise refused(
            "Invalid type for 'messages': expected an array of objects.", "messages", "invalid_type"
        )
    if not messages:
        raise refused(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            "messages",
            "empty_array",
        )
    for index, message in enumerate(messages):
        _check_role(index, message)
    _check_tool_calls(messages)


def _check_role(index: int, message: Any) -> None:
    if not isinstance(message, dict):
        name = f"messages[{index}]"
        raise refused(f"Invalid type for '{name}': expected an object.", name, "invalid_type")
    if message.get("role") not in _ROLES:
        supported = ", ".join(f"'{role}'" for role in _ROLES)
        raise refused(
            f"Invalid value for the role. Supported values are: {supported}.",
            f"messages[{index}].role",
            "invalid_value",
        )


def _check_tool_calls(messages: list[dict[str, Any]]) -> None:
    """Each call is answered right behind the message that asks for it, and nothing else is."""
    known: set[Any] = set()
    missing: list[Any] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            _check_result(index, message, known)
            missing = [call for call in missing if call != message.get("tool_call_id")]
            continue
        _check_none_missing(missing, f"messages.[{index}].role")
        missing = _call_ids(message)
        known = set(missing)
    _check_none_missing(missing, "messages")


def _call_ids(message: dict[str, Any]) -> list[Any]:
    calls = message.get("tool_calls") or []
    if message["role"] != "assistant" or not isinstance(calls, list):
        return []
    return [str(call.get("id")) for call in calls if isinstance(call, dict)]


def _check_result(index: int, message: dict[str, Any], known: set[Any]) -> None:
    if not known:
        raise refused(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'.",
            f"messages.[{index}].role",
        )
    call = str(message.get("tool_call_id"))
    if call not in known:
        raise refused(
            f"Invalid parameter: 'tool_call_id' of '{call}' not found in 'tool_calls' of "
            "previous message.",
            f"messages.[{index}].tool_call_id",
        )


def _check_none_missing(missing: list[Any], param: str) -> None:
    if missing:
        raise refused(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(missing),
            param,
        )
