"""Which requests go through a proxy, as the environment says: in httpx's own patterns of URLs."""

from __future__ import annotations

from ipaddress import ip_network

from asynchistory import environment
from asynchistory.environment import Secret

#: This machine: its requests may go unencrypted, and so never to a proxy.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def proxies() -> dict[str, Secret | None]:
    """The proxy of each pattern that has one; None goes without.

    As httpx reads the environment itself when it is not given a transport, save that
    what is on this machine needs no mention in ``NO_PROXY``.
    """
    found = environment.proxies()
    excepted = [host.strip() for host in found.get("no", "").split(",")]
    schemes = [scheme for scheme in ("http", "https", "all") if found.get(scheme)]
    if "*" in excepted or not schemes:
        return {}
    through: dict[str, Secret | None] = {
        f"{scheme}://": Secret(url if "://" in (url := found[scheme]) else f"http://{url}")
        for scheme in schemes
    }
    around = [pattern(host) for host in (*LOOPBACK, *excepted) if host]
    return through | dict.fromkeys(filter(None, around))


def pattern(host: str) -> str:
    """The pattern of an entry of ``NO_PROXY``; "" if it has none."""
    if "://" in host:
        return host
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        # A name stands for its subdomains too; with a dot before it, for them alone.
        exact = host.lower() == "localhost" or host.startswith(("[", "*."))
        return "" if "/" in host else f"all://{host}" if exact else f"all://*{host}"
    address, slash, size = host.partition("/")
    return f"all://{host}" if network.version == 4 else f"all://[{address}]{slash}{size}"
