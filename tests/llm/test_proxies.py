"""Proxies of the environment, as httpx itself would choose them, and of no loop either."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from asynchistory import ClientCreationError, LLMConnectionError, LLMFactory
from asynchistory.errors import ConfigurationError
from asynchistory.llm import http
from tests.llm.asking import BOTH_WAYS, ask, connect
from tests.llm.certificates import NAME, tls as tls
from tests.llm.proxy_server import ProxyServer
from tests.llm.raw_server import RawServer

PASSWORD = "canary-of-a-proxy"
VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no", "ftp")]
LIBRARIES = pytest.mark.parametrize("library", ["httpx", "httpx2"])
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def servers(context: ssl.SSLContext | None = None) -> Iterator[tuple[RawServer, ProxyServer]]:
    with RawServer(tls=context) as server, ProxyServer(server.port) as proxy:
        yield server, proxy


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.anyio
async def test_a_model_is_asked_through_the_proxy(
    variable: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers(tls) as (server, proxy):
        monkeypatch.setenv(variable, f"http://user:{PASSWORD}@{proxy.address}")
        client = await connect(f"https://{NAME}/v1")
        for _ in range(3):
            assert (await ask(client, False))[0].message.text == "Hi, Zoë 🎈"
    assert proxy.asked == [f"CONNECT {NAME}:443 HTTP/1.1"]
    assert b64encode(f"user:{PASSWORD}".encode()).decode() in proxy.heads[0]
    assert "sk-canary" not in "".join(proxy.heads)
    assert len(server.requests) == 3


@LIBRARIES
@pytest.mark.parametrize("address", ["http://{}", "{}"])
@pytest.mark.anyio
async def test_plain_http_is_forwarded(
    library: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers() as (server, proxy):
        monkeypatch.setenv("HTTP_PROXY", address.format(proxy.address))
        client = LLMFactory().http_client(library)
        assert (await client.post(f"http://{NAME}/x", json=QUESTION)).is_success
    assert proxy.asked == [f"POST http://{NAME}/x HTTP/1.1"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_connections_to_a_proxy_end_with_their_run(
    backend: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers(tls) as (server, proxy):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        client = LLMFactory().http_client()
        for _ in range(3):
            anyio.run(partial(client.post, f"https://{NAME}/", json=QUESTION), backend=backend)
            assert server.has(0)
        assert (len(proxy.heads), len(server.requests)) == (3, 3)
        assert len(http.run_local_transport("httpx").pools) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.anyio
async def test_what_is_on_this_machine_is_asked_directly(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers() as (server, proxy):
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
        client = await connect(f"http://{host}:{server.port}/v1")
        await ask(client, False)
    assert (len(server.requests), proxy.heads) == (1, [])


SETTINGS: dict[str, dict[str, str]] = {
    "http alone": {"http_proxy": "http://a:1"},
    "https alone": {"https_proxy": "b:2"},
    "all": {"all_proxy": "http://c:3", "http_proxy": "http://a:1"},
    "none for some": {
        "all_proxy": "http://c:3",
        "no_proxy": "example.com, .dotted.org,10.0.0.7,192.168.0.0/16,"
        "172.16.5.5/16,::2,host.test:8080,http://only.http.test,localhost,,with/slash",
    },
    "none": {"all_proxy": "http://c:3", "no_proxy": "x, *"},
    "not a host": {"all_proxy": "http://c:3", "no_proxy": "[,http://[,example.com"},
    "no proxy at all": {"no_proxy": "example.com"},
}
URLS = [
    f"{scheme}://{host}"
    for scheme in ("http", "https")
    for host in (
        "example.com", "www.example.com", "notexample.com", "dotted.org", "a.dotted.org",
        "starred.org", "a.starred.org", "10.0.0.7", "10.0.0.8", "172.16.9.9", "192.168.7.7",
        "[::2]", "[::3]", "[fd00::1]", "host.test", "host.test:8080", "only.http.test", "other.net",
    )
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_each_address_goes_where_httpx_would_send_it(
    setting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    ours, theirs = http.http_client(1), httpx.AsyncClient(verify=False)

    def through(client: httpx.AsyncClient, url: str) -> str | None:
        transport: Any = client._transport_for_url(httpx.URL(url))
        if isinstance(transport, http.RunLocalTransport):
            transport = transport.pools._make(True)
        proxy = getattr(transport._pool, "_proxy_url", None) or transport._pool._proxy
        return proxy and bytes(getattr(proxy, "url", proxy)).decode()

    for url in URLS:
        assert through(ours, url) == through(theirs, url), url


def test_entries_that_httpx_itself_fails_at_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://c:3")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,[::3],*.starred.org")
    with pytest.raises(httpx.InvalidURL):
        httpx.AsyncClient(verify=False)
    through: Any = http.http_client(1)._transport_for_url
    direct = http.run_local_transport("httpx")
    assert through(httpx.URL("https://[::3]")) is direct
    assert through(httpx.URL("https://a.starred.org")) is direct
    assert through(httpx.URL("https://starred.org")) is not direct
    assert through(httpx.URL("https://[::4]")) is not direct


@pytest.mark.parametrize("value", ["ftp://a:1", "http://a:port", "socks5://a:1", "://"])
@pytest.mark.anyio
async def test_a_proxy_that_cannot_be_used_is_refused_with_the_remedy(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value.replace("//", f"//user:{PASSWORD}@"))
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        LLMFactory().http_client()
    assert PASSWORD not in str(caught.value)
    with pytest.raises(ClientCreationError, match="HTTPS_PROXY"):
        await connect("https://example.com")


def test_a_library_that_is_not_there_is_refused_with_the_remedy() -> None:
    wrong: Any = "requests"
    with pytest.raises(ConfigurationError, match="pip install httpx"):
        LLMFactory().http_client(wrong)


@pytest.mark.anyio
async def test_certificates_that_cannot_be_read_are_named(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        await LLMFactory().http_client().get("https://127.0.0.1:1")


@BOTH_WAYS
@pytest.mark.anyio
async def test_a_proxy_that_refuses_is_a_connection_error(
    streamed: bool, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers(tls) as (server, proxy):
        proxy.refuses = True
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@{proxy.address}")
        client = await connect(f"https://{NAME}/v1")
        with pytest.raises(LLMConnectionError, match="ProxyError"):
            await ask(client, streamed)
    assert not server.requests
