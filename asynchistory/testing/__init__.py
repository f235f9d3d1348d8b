"""For tests of applications and of asynchistory itself: a model server, and a proxy that breaks.

::

    from asynchistory.testing import LoopbackLLM, Reply

    with LoopbackLLM(Reply("Hello!")) as llm:
        client = OpenAI(base_url=llm.url, api_key="any")

The server speaks OpenAI's chat completions and Anthropic's messages over real HTTP. It
needs uvicorn: ``pip install 'asynchistory[demo]'``. ``FaultProxy`` stands before any TCP
server. Importing this package loads none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynchistory.testing.fault_proxy import (
        FaultProxy as FaultProxy,
    )
    from asynchistory.testing.llm_server import (
        LoopbackLLM as LoopbackLLM,
    )
    from asynchistory.testing.loopback_app import (
        LoopbackApp as LoopbackApp,
        ReceivedRequest as ReceivedRequest,
    )
    from asynchistory.testing.replies import (
        CallTool as CallTool,
        Fault as Fault,
        Reply as Reply,
        Script as Script,
    )
    from asynchistory.testing.signals import (
        Gate as Gate,
        Signal as Signal,
    )

_HOMES = {
    "CallTool": "replies",
    "Fault": "replies",
    "FaultProxy": "fault_proxy",
    "Gate": "signals",
    "LoopbackApp": "loopback_app",
    "LoopbackLLM": "llm_server",
    "ReceivedRequest": "loopback_app",
    "Reply": "replies",
    "Script": "replies",
    "Signal": "signals",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
