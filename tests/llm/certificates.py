"""A certificate for servers of the tests, which our clients trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynchistory.llm import http

#: A name that no network knows, as RFC 2606 promises.
NAME = "api.example.test"


def _forget() -> None:
    http._ssl_context.cache_clear()
    http.run_local_transport.cache_clear()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """What a server of :data:`NAME` or 127.0.0.1 needs, while its authority is trusted here."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME, "127.0.0.1").configure_cert(context)
    _forget()
    yield context
    _forget()
