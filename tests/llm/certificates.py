"""A certificate for servers of the tests, which our clients trust."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import pytest

from asynchistory.llm import http

#: A name that no network knows, as RFC 2606 promises.
NAME = "api.example.test"
AUTHORITY = "authority.pem"


def issue(folder: Path) -> ssl.SSLContext:
    """What a server of :data:`NAME` or 127.0.0.1 needs; its authority is in ``authority.pem``."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / AUTHORITY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME, "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs, while its authority is trusted here and in programs started here."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / AUTHORITY))
    # Others in the place of the process's own, whose connections may be in use in other threads.
    for name in ("_ssl_context", "run_local_transport"):
        monkeypatch.setattr(http, name, cache(getattr(http, name).__wrapped__))
    return issue(tmp_path)
