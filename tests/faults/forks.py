"""Processes that fork while connections to a model are open: who gets which answer."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from pathlib import Path
from unittest import mock

from tests.faults.children import Child
from tests.faults.report import LOOPS, Report
from tests.llm.certificates import AUTHORITY, issue
from tests.llm.raw_server import RawServer
from tests.llm.test_forks import ALL_RIGHT, CHILDREN as CHILDREN, SENT


def fork(report: Report, backend: str, tls: ssl.SSLContext | None) -> None:
    """Let one process fork, and hold what all of them say against what the server got."""
    where = f"{backend}, {'TLS' if tls else 'HTTP'}"
    with RawServer(tls=tls) as server:
        who = Child("tests.llm.test_forks:fork_with_a_warm_pool", server.url, backend)
        code, complaints = who.end()
    if (code, complaints) != (0, ""):
        finding = "stuck" if code == -9 else "errors"
        report.note(finding, f"{where}: it ended with {code}: {complaints[-300:]}")
    for line in who.lines:
        if line not in ALL_RIGHT:
            report.note("lost", f"{where}: {line}")
    report.counts[f"{where}: processes"] += len(who.lines)
    report.acknowledged += SENT
    report.stored += len(server.requests)
    if len(server.requests) != SENT:
        finding = "duplicates" if len(server.requests) > SENT else "lost"
        report.note(finding, f"{where}: {len(server.requests)} requests for {SENT} calls")


def campaign(times: int) -> Report:
    """Let ``times`` processes fork on each loop, with and without TLS."""
    report = Report("forks", times, unit="processes that fork, on each loop, over HTTP and TLS")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tls = issue(Path(folder))
        with mock.patch.dict(os.environ, SSL_CERT_FILE=str(Path(folder, AUTHORITY))):
            for _ in range(times):
                for backend in LOOPS:
                    fork(report, backend, None)
                    fork(report, backend, tls)
    report.seconds = time.monotonic() - start
    return report
