"""chat: one answer or many, through pipes and on a terminal, over HTTP and offline."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynchistory.cli.hints import quoted
from asynchistory.testing import CallTool, Fault, Gate, LoopbackLLM, Reply
from tests.cli.conftest import Invoke
from tests.cli.test_terminal import ACTIVE, EVIL

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-1234567890"
SCRIPTED = ("chat", "--provider", "scripted")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def exported(invoke: Invoke) -> list[dict[str, Any]]:
    return [json.loads(line) for line in invoke("export").stdout.split("\n")[:-1]]


def said(conversation: dict[str, Any]) -> list[tuple[str, str]]:
    """Roles and texts of a conversation's messages."""
    return [
        (record["role"], "".join(part.get("text", "") for part in record.get("parts", ())))
        for record in conversation["records"]
        if record["record_type"] == "message"
    ]


# -- one answer


def test_one_message_gives_one_answer_and_how_to_go_on(invoke: Invoke, db: Path) -> None:
    done = invoke(*SCRIPTED, "--user", "mia", "--system", "Be brief.", "Hello")

    assert done.stdout == "You said: Hello\n"
    [conversation] = exported(invoke)
    session_id = conversation["session"]["id"]
    assert conversation["session"]["user_id"] == "mia"
    assert said(conversation) == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "You said: Hello"),
    ]
    first, second = done.stderr.splitlines()
    assert first == f"conversation {session_id} · tokens 5 in, 4 out"
    command = f"chat --db {quoted(str(db))} --provider scripted --session {session_id}"
    assert second.startswith("go on with: ")
    assert second.endswith(command)


def test_a_message_on_standard_input(invoke: Invoke) -> None:
    assert invoke(*SCRIPTED, input="two\nlines\n").stdout == "You said: two\nlines\n"


@pytest.mark.parametrize("input", ["", " \n"])
def test_nothing_to_say(input: str, invoke: Invoke, db: Path) -> None:
    assert "nothing to say" in invoke(*SCRIPTED, input=input, code=2).stderr
    assert not db.exists()


def test_input_that_is_not_utf8(invoke: Invoke) -> None:
    assert "not UTF-8 (byte 2)" in invoke(*SCRIPTED, input=b"a\xff", code=1).stderr


@pytest.mark.parametrize("name", ["last", "start", "id"])
def test_a_conversation_is_resumed(name: str, invoke: Invoke) -> None:
    invoke(*SCRIPTED, "--system", "Be brief.", "one")
    session_id = exported(invoke)[0]["session"]["id"]

    wanted = {"last": "last", "start": session_id[:6], "id": session_id}[name]
    invoke(*SCRIPTED, "--session", wanted, "two")

    [conversation] = exported(invoke)
    assert [text for _, text in said(conversation)] == [
        "Be brief.", "one", "You said: one", "two", "You said: two"
    ]  # fmt: skip


def test_json_gives_the_events(invoke: Invoke) -> None:
    with LoopbackLLM(Reply(f"Hi {EVIL}", reasoning="Hm.")) as llm:
        done = invoke("chat", "-m", "m", "--base-url", llm.url, "--json", "Hello")

    assert done.stderr == ""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    events = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    names = list(dict.fromkeys(event["event"] for event in events))
    assert names == ["session", "reasoning", "text", "usage", "done"]
    assert events[0]["session_id"] == exported(invoke)[0]["session"]["id"]
    assert "".join(event["text"] for event in events if event["event"] == "text") == f"Hi {EVIL}"
    assert events[-1]["message"]["role"] == "assistant"
    assert events[-2]["usage"]["output_tokens"] > 0


# -- the server


def test_what_is_sent_to_the_server(invoke: Invoke) -> None:
    with LoopbackLLM(Reply("Hi!"), api_key=KEY) as llm:
        done = invoke("chat", "-m", "m1", "--base-url", llm.url, "--temperature", "0.5", "Hello")

    assert done.stdout == "Hi!\n"
    [request] = llm.requests
    assert request.body["model"] == "m1"
    assert request.body["temperature"] == 0.5
    assert request.body["stream"] is True
    assert f"--model m1 --base-url {llm.url} --temperature 0.5 --session" in done.stderr


@pytest.mark.parametrize("size", [1, 8])
def test_control_characters_of_an_answer_reach_nobody(size: int, invoke: Invoke) -> None:
    with LoopbackLLM(Reply(f"{EVIL}\r\nnext\tline\r", chunk_size=size)) as llm:
        done = invoke("chat", "-m", "m", "--base-url", llm.url, "Hello")

    assert not ACTIVE.search(done.stdout.replace("\t", ""))
    assert r"a\x1b[2Jb" in done.stdout
    assert done.stdout.endswith("h\nnext\tline\\r\n")  # \r\n is an end of line, in two pieces too


def test_a_tool_that_is_not_there(invoke: Invoke) -> None:
    call = Reply("Wait.", tool_calls=[CallTool("look_up", {"x": 1})])
    with LoopbackLLM([call, Reply("Never mind.")]) as llm:
        done = invoke("chat", "-m", "m", "--base-url", llm.url, "Hello")

    assert done.stdout == "Wait.\nNever mind.\n"
    assert done.stderr.startswith("→ look_up\n")


ONCE = {"x-should-retry": "false"}
FAULTS: dict[str, tuple[Fault, str]] = {
    "unauthorized": (Fault.unauthorized(), "check the API key"),
    "rate limited": (Fault.status(429, headers=ONCE), "429"),
    "quota": (Fault.quota_exhausted(), "credit"),
    "server error": (Fault.status(500, headers=ONCE), "500"),
    "malformed": (Fault.malformed(), "malformed"),
    "cut": (Fault.cut(), "ask again"),
    "cut at once": (Fault.cut(after=0), "openai"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_is_one_line_and_the_conversation_goes_on(fault: str, invoke: Invoke) -> None:
    answer, words = FAULTS[fault]
    with LoopbackLLM([answer, Reply("Better now.")]) as llm:
        at = ("chat", "-m", "m", "--base-url", llm.url)
        failed = invoke(*at, "My secret question", code=1)
        again = invoke(*at, "--session", "last", "And now?")

    assert len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("Error: ")
    assert words in failed.stderr
    assert KEY not in failed.stderr + failed.stdout
    assert "secret question" not in failed.stderr
    assert again.stdout == "Better now.\n"
    [conversation] = exported(invoke)
    assert [role for role, _ in said(conversation)] == ["user", "user", "assistant"]


def test_a_dead_server(invoke: Invoke) -> None:
    with LoopbackLLM() as llm:
        pass
    done = invoke("chat", "-m", "m", "--base-url", llm.url, "Hello", code=1)

    assert done.stderr.splitlines() == [
        "Error: openai could not be reached (ConnectError); check base_url and network"
    ]


# -- wrong usage


def test_an_address_that_cannot_be_used_leaves_nothing_behind(invoke: Invoke, db: Path) -> None:
    done = invoke("chat", "-m", "m", "--base-url", "nonsense", "Hello", code=1)

    assert "must look like https://" in done.stderr
    assert not db.exists()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_without_a_key_for_the_provider_itself(
    provider: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{provider.upper()}_API_KEY"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)

    done = invoke("chat", "--provider", provider, "-m", "m", "Hello", code=1)
    assert f"set {name}" in done.stderr


def test_anthropic_s_format(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with LoopbackLLM(api_key=KEY) as llm:
        at = ("chat", "--provider", "anthropic", "-m", "m", "--base-url", llm.origin)
        assert invoke(*at, "Hello").stdout == "You said: Hello\n"
        assert invoke(*at, "--session", "last", "Again").stdout == "You said: Again\n"
    assert [request.path for request in llm.requests] == ["/v1/messages"] * 2


def test_wrong_usage(invoke: Invoke) -> None:
    assert "--model" in invoke("chat", "Hello", code=2).stderr
    assert "no database" in invoke(*SCRIPTED, "--session", "last", "Hi", code=1).stderr
    invoke(*SCRIPTED, "--user", "mia", "Hi")
    assert "no conversation" in invoke(*SCRIPTED, "--session", "nope", "Hi", code=1).stderr
    other = invoke(*SCRIPTED, "--session", "last", "--user", "ravi", "Hi", code=1)
    assert "another user" in other.stderr
    prompted = invoke(*SCRIPTED, "--session", "last", "--system", "X", "Hi", code=2)
    assert "--system" in prompted.stderr
    assert len(said(exported(invoke)[0])) == 2


# -- on a terminal

SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, db: Path, *args: str) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "compat")])
        command = [sys.executable, "-m", "asynchistory.cli", "--db", str(db), *args]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SPAWN, *command],
            env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "TERM": "dumb"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.shown = ""
        self._read_to = 0

    def type(self, keys: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(keys.encode())

    def wait_for(self, words: str) -> None:
        """Wait until this is shown, behind what was waited for before."""
        while (found := self.shown.find(words, self._read_to)) < 0:
            assert self._more(), self.shown
        self._read_to = found + len(words)

    def press_until(self, key: str, words: str) -> None:
        """Press a key until this is shown.

        Ctrl-C between a prompt and the wait for a line behind it is not seen by
        Python before something else is typed.
        """
        self.type(key)
        while words not in self.shown[self._read_to :]:
            if not self._more(patience=1):
                self.type(key)
        self.wait_for(words)

    def end(self) -> int:
        """Wait for its end; its exit code."""
        while self._more():
            pass
        return self._process.wait(30)

    def _more(self, patience: float = 30) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        if not ready and patience < 30:
            return False
        assert ready, f"nothing more came after:\n{self.shown}"
        data = os.read(self._process.stdout.fileno(), 65_536)
        self.shown += data.decode()
        return bool(data)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(db: Path) -> Iterator[Open]:
    if os.name == "nt":
        pytest.skip("terminals of POSIX")
    opened: list[Terminal] = []

    def open_one(*args: str) -> Terminal:
        opened.append(Terminal(db, *args))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_conversation_on_a_terminal(terminal: Open, invoke: Invoke) -> None:
    chat = terminal(*SCRIPTED)
    for text in ("one", "two"):
        chat.wait_for("> ")
        chat.type(f"{text}\n")
        chat.wait_for(f"You said: {text}")
    chat.wait_for("> ")
    chat.type("\x04")

    assert chat.end() == 0
    [conversation] = exported(invoke)
    assert [text for _, text in said(conversation)] == [
        "one", "You said: one", "two", "You said: two"
    ]  # fmt: skip
    assert f"--session {conversation['session']['id']}" in chat.shown
    assert re.search(r"tokens \d+ in, \d+ out", chat.shown)


def test_a_resumed_conversation_shows_its_last_messages(terminal: Open, invoke: Invoke) -> None:
    for number in range(4):
        session = [] if number == 0 else ["--session", "last"]
        invoke(*SCRIPTED, *session, f"message {number}")

    chat = terminal(*SCRIPTED, "--session", "last")
    chat.wait_for("> ")
    for number in (2, 3):
        assert f"  You said: message {number}" in chat.shown
    assert "message 1" not in chat.shown
    chat.type("\x04")
    assert chat.end() == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(
    terminal: Open, invoke: Invoke
) -> None:
    held = Reply("This is a long answer.", chunk_size=4, gate=Gate(), gate_after=3)
    with LoopbackLLM([held, Reply("Short.")]) as llm:
        chat = terminal("chat", "-m", "m", "--base-url", llm.url)
        chat.wait_for("> ")
        chat.type("Tell me\n")
        chat.wait_for("This is")
        chat.type("\x03")
        chat.wait_for("(stopped)")
        assert llm.requests[0].ended.wait(30)  # the request was given up, not left open
        chat.wait_for("> ")
        chat.press_until("\x03", "> ")  # at the prompt it does nothing
        chat.type("Shorter\n")
        chat.wait_for("Short.")
        chat.wait_for("> ")
        chat.type("\x04")
        assert chat.end() == 0

    assert "Traceback" not in chat.shown
    [conversation] = exported(invoke)
    assert said(conversation) == [
        ("user", "Tell me"), ("user", "Shorter"), ("assistant", "Short.")
    ]  # fmt: skip
    assert invoke("show", "last").stdout


def test_ctrl_c_ends_a_single_answer(terminal: Open, invoke: Invoke) -> None:
    held = Reply("This is a long answer.", chunk_size=4, gate=Gate(), gate_after=3)
    with LoopbackLLM(held) as llm:
        chat = terminal("chat", "-m", "m", "--base-url", llm.url, "Tell me")
        chat.wait_for("This is")
        chat.type("\x03")
        assert chat.end() == 130

    assert "go on with:" in chat.shown
    assert "Traceback" not in chat.shown
    assert said(exported(invoke)[0]) == [("user", "Tell me")]


def test_an_error_on_a_terminal_does_not_end_the_conversation(terminal: Open) -> None:
    with LoopbackLLM([Fault.status(500, headers=ONCE), Reply("Fine.")]) as llm:
        chat = terminal("chat", "-m", "m", "--base-url", llm.url)
        for text, answer in (("one", "Error: openai answered 500"), ("two", "Fine.")):
            chat.wait_for("> ")
            chat.type(f"{text}\n")
            chat.wait_for(answer)
        chat.wait_for("> ")
        chat.type("\x04")
        assert chat.end() == 0
