"""A certificate for servers of the tests, which our clients trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynchistory.llm import http

#: A name that no network knows, as RFC 2606 promises.
NAME = "api.example.test"
AUTHORITY = "authority.pem"


def _forget() -> None:
    http._ssl_context.cache_clear()
    http.run_local_transport.cache_clear()


def issue(folder: Path) -> ssl.SSLContext:
    """What a server of :data:`NAME` or 127.0.0.1 needs; its authority is in ``authority.pem``."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / AUTHORITY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME, "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """What a server needs, while its authority is trusted here and in programs started here."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / AUTHORITY))
    _forget()
    yield issue(tmp_path)
    _forget()
