#!/usr/bin/env python3
"""Run this repository's demo, tests and checks from a bare Python 3.11 or newer.

    python3 dev.py demo                     a tour, offline, in a few seconds
    python3 dev.py test -k cache -x         the tests; what follows goes to pytest
    python3 dev.py test --python 3.13       the tests on another interpreter
    python3 dev.py check                    formatting, lint, types and the direction of imports
    python3 dev.py bench NAME --json        a benchmark against its peers
    python3 dev.py faults NAME --times 30   a fault campaign of any length

Each command makes the virtual environment that it needs, or repairs it, and
then runs in it. The exit code is that of what was run; 2 means wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)
FAILED, USAGE = 1, 2

#: Asks an interpreter what it is: its version in full, and the program behind a shim or a venv.
PROBE = "import sys; print(sys.version.replace('\\n', ' ')); print(sys._base_executable)"


class DevError(Exception):
    """Ends dev.py with a message and an exit code, without a traceback."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """Tell the user; standard output belongs to what is run."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


def probe(program: str | Path) -> tuple[str, str] | None:
    """The version and real path of an interpreter; None if it does not run, as a dead shim."""
    try:
        done = subprocess.run(
            [program, "-I", "-c", PROBE], capture_output=True, text=True, timeout=60, check=True
        )
        version, base = done.stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return version, base


def candidates(wanted: str) -> Iterator[Path]:
    """Where an interpreter of this version may be: on PATH, then among pyenv's."""
    suffix = ".exe" if os.name == "nt" else ""
    for entry in os.get_exec_path():
        program = Path(entry, f"python{wanted}{suffix}")
        if program.is_file():
            yield program
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    releases = [
        (int(match[1]), folder)
        for folder in pyenv.glob("versions/*")
        if (match := re.fullmatch(re.escape(wanted) + r"\.(\d+)", folder.name))
    ]
    for _, folder in sorted(releases, reverse=True):
        yield folder / "bin" / "python"


def find_python(wanted: str) -> tuple[str, str]:
    """The version in full and the path of an interpreter ``X.Y``."""
    match = re.fullmatch(r"3\.(\d+)", wanted)
    if not match or (3, int(match[1])) < OLDEST:
        raise DevError(f"--python takes 3.11 or newer, such as 3.13; not {wanted!r}", USAGE)
    for program in candidates(wanted):
        found = probe(program)
        if found and found[0].startswith((f"{wanted}.", f"{wanted} ")):
            return found
    raise DevError(
        f"no Python {wanted} that runs was found, neither as python{wanted} on PATH "
        "nor under pyenv's versions; install one, or leave out --python",
        USAGE,
    )


def declared() -> Any:
    """What decides the contents of an environment; settings of tools do not."""
    import tomllib  # not at the top, so that an older Python gets as far as our message

    try:
        tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DevError(f"pyproject.toml cannot be read: {error}") from error
    version = (ROOT / "asynchistory" / "_version.py").read_text(encoding="utf-8")
    return [
        tables.get("build-system"),
        tables.get("project"),
        tables.get("tool", {}).get("hatch"),
        version,
    ]


class Environment:
    """A virtual environment, made, repaired or extended when it is asked for.

    A stamp is written after the last step and removed before the first, so an
    environment without one was never finished and is made again. A lock in the
    folder lets any number of dev.py use it, and only one change it.
    """

    def __init__(self, folder: str, python: tuple[str, str]) -> None:
        self.folder = ROOT / folder
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        self._version, self._base = python
        self._stamp = self.folder / "dev.json"
        # The root is part of it: an environment in a clone that was moved or copied
        # still points to where it was made.
        self._made_from = [str(ROOT), self._version, declared()]
        self._lock_fd = -1

    def require(self, *extras: str) -> None:
        """Make sure that the package is installed with these extras, and stays so while we run."""
        self.folder.mkdir(exist_ok=True)
        self._lock_fd = os.open(self.folder / "dev.lock", os.O_RDWR | os.O_CREAT, 0o666)
        while True:
            self._lock(alone=False)
            have = self._have()
            if have is not None and have.issuperset(extras):
                return
            self._lock(alone=True)
            have = self._have()  # another dev.py may have done it while we waited
            if have is None:
                self._make()
            if have is None or not have.issuperset(extras):
                self._install(sorted((have or set()).union(extras)))

    def run(self, *args: str, cwd: Path = ROOT, path: bool = True) -> NoReturn:
        """Become this program: its signals and its exit code are ours."""
        os.chdir(cwd)
        sys.stdout.flush()
        variables = self.variables() if path else dict(os.environ)
        if os.name == "nt":
            sys.exit(subprocess.call(args, env=variables))
        os.set_inheritable(self._lock_fd, True)
        os.execve(args[0], args, variables)

    def captured(self, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, without input; its output and errors are one text."""
        return subprocess.run(
            args,
            cwd=ROOT,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            **options,
        )

    def variables(self) -> dict[str, str]:
        """The environment variables under which programs run in here."""
        variables = {**os.environ, "VIRTUAL_ENV": str(self.folder), "PIP_USER": "0"}
        # Otherwise pyright looks for a newer version of itself.
        variables["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
        variables["PATH"] = os.pathsep.join([str(self.bin), *os.get_exec_path()])
        variables.pop("PYTHONHOME", None)
        return variables

    def _have(self) -> set[str] | None:
        """The extras that are installed; None if the environment has to be made again."""
        try:
            stamp = json.loads(self._stamp.read_text(encoding="utf-8"))
            made_from, extras = stamp["made_from"], set(stamp["extras"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        runs = probe(self.python)
        if made_from != self._made_from or runs is None or runs[0] != self._version:
            return None
        return extras

    def _make(self) -> None:
        say(f"making {self.folder.name} with Python {self._version.split()[0]} ...")
        short = ".".join(self._version.split(".")[:2])
        if subprocess.run(
            [self._base, "-c", "import ensurepip, venv"], capture_output=True
        ).returncode:
            package = (
                "python3-venv" if self._base.startswith("/usr/bin/") else f"python{short}-venv"
            )
            raise DevError(
                f"{self._base} cannot make virtual environments, for its ensurepip is missing; "
                f"on Debian and Ubuntu the remedy is: apt install {package}"
            )
        self._stamp.unlink(missing_ok=True)
        for entry in self.folder.iterdir():
            if entry.name == "dev.lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._step(self._base, "-m", "venv", str(self.folder))

    def _install(self, extras: list[str]) -> None:
        what = f".[{','.join(extras)}]" if extras else "."
        say(f"installing {what} into {self.folder.name} (a minute or two the first time) ...")
        self._stamp.unlink(missing_ok=True)
        pip = ("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")
        self._step(str(self.python), *pip, "--editable", what)
        fresh = self._stamp.with_suffix(".new")
        fresh.write_text(
            json.dumps({"made_from": self._made_from, "extras": extras}), encoding="utf-8"
        )
        fresh.replace(self._stamp)

    def _step(self, *args: str) -> None:
        # The step holds the lock with us: should dev.py be killed, the next one
        # waits until the orphan is done with the folder.
        done = self.captured(args, pass_fds=() if os.name == "nt" else (self._lock_fd,))
        if done.returncode:
            raise DevError(f"{' '.join(args)} failed:\n{done.stdout.rstrip()}")

    def _lock(self, *, alone: bool) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self._lock_fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another dev.py that is at work in {self.folder.name} ...")
            fcntl.flock(self._lock_fd, how)
        except OSError as error:  # some network file systems have no locks
            say(f"no lock on {self.folder.name} ({error.strerror}); run one dev.py at a time")


def this_python() -> tuple[str, str]:
    """The interpreter that runs us, or the one behind our virtual environment."""
    return probe(sys.executable) or (sys.version.replace("\n", " "), sys.executable)


def demo(options: argparse.Namespace, rest: list[str]) -> NoReturn:
    """Hold a few hundred conversations with a model, and lose none when a writer is killed."""
    environment = Environment(".venv", this_python())
    environment.require("demo")
    # With the caller's own PATH: the demo prints commands to try, and the shell that they are
    # pasted into does not have the environment on its PATH.
    environment.run(
        str(environment.bin / "asynchistory"), "demo", *rest, cwd=Path.cwd(), path=False
    )


def test(options: argparse.Namespace, rest: list[str]) -> NoReturn:
    """Run the tests; other arguments go to pytest."""
    if options.python:
        environment = Environment(f".venv-{options.python}", find_python(options.python))
    else:
        environment = Environment(".venv", this_python())
    environment.require("test", "frameworks")
    environment.run(str(environment.python), "-m", "pytest", *rest)


def check(options: argparse.Namespace, rest: list[str]) -> int:
    """Run every check, and say which failed and why."""
    if rest:
        raise DevError(f"check takes no arguments, not {' '.join(rest)}", USAGE)
    environment = Environment(".venv", this_python())
    environment.require("check", "test")
    python = str(environment.python)
    verify = (python, "-m", "pyright", "--pythonpath", python, "--ignoreexternal", "--verifytypes")
    steps: dict[str, tuple[str, ...]] = {
        "ruff check": (python, "-m", "ruff", "check", "."),
        "ruff format": (python, "-m", "ruff", "format", "--check", "."),
        "mypy --strict": (python, "-m", "mypy"),
        "pyright --verifytypes asynchistory": (*verify, "asynchistory"),
        "pyright --verifytypes asynchistory_compat": (*verify, "asynchistory_compat"),
        "import-linter": (str(environment.bin / "lint-imports"),),
    }
    failed = 0
    for name, args in steps.items():
        start = time.monotonic()
        done = environment.captured(args)
        verdict = "FAILED" if done.returncode else "ok    "
        print(f"{verdict}  {name}  ({time.monotonic() - start:.1f} s)", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout.rstrip() + "\n", flush=True)
    return FAILED if failed else 0


def bench(options: argparse.Namespace, rest: list[str]) -> NoReturn:
    """Run one benchmark; other arguments go to it."""
    names = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")}
    if options.name not in names:
        known = ", ".join(sorted(names)) or "none yet"
        raise DevError(f"no benchmark {options.name!r}; there are: {known}", USAGE)
    environment = Environment(".venv-bench", this_python())
    environment.require("bench")
    environment.run(str(environment.python), "-m", f"benchmarks.{options.name}", *rest)


def faults(options: argparse.Namespace, rest: list[str]) -> NoReturn:
    """Run one fault campaign and print one JSON object; other arguments go to it."""
    if options.times < 1:
        raise DevError("--times takes a whole number of at least 1", USAGE)
    environment = Environment(".venv", this_python())
    environment.require("test")
    command = (str(environment.python), "-m", "tests.faults", options.name)
    environment.run(*command, "--times", str(options.times), "--json", *rest)


def parser() -> argparse.ArgumentParser:
    """The command line: what is not an option of ours goes on to what is run."""
    top = argparse.ArgumentParser(
        "dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, test, check, bench, faults):
        text = command.__doc__ or ""
        sub = commands.add_parser(command.__name__, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=command)
        if command is test:
            sub.add_argument("--python", metavar="X.Y", help="the interpreter, such as 3.13")
        if command in (bench, faults):
            sub.add_argument("name", metavar="NAME")
        if command is faults:
            sub.add_argument("--times", type=int, default=30, metavar="N", help="default: 30")
            sub.add_argument("--json", action="store_true", help="accepted; it always is JSON")
    return top


def main() -> int:
    """Run one command and return its exit code."""
    if sys.version_info[:2] < OLDEST:
        say(f"needs Python 3.11 or newer, this is {sys.version.split()[0]}; try python3.11 dev.py")
        return USAGE
    options, rest = parser().parse_known_args()
    try:
        return int(options.run(options, rest))
    except (DevError, OSError) as error:
        say(str(error))
        return error.code if isinstance(error, DevError) else FAILED


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
