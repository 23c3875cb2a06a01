"""Which proxy the environment names for a URL: http_proxy, https_proxy, all_proxy and no_proxy, as curl reads them.

The choice is made here and not by the HTTP client, since a reason must name the proxy where that is what fails.
"""

from __future__ import annotations

import urllib.request
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from p2pfill.errors import ConfigError


class Proxy(NamedTuple):
    """A proxy. As text it is for people, and has nothing in it that is secret."""

    host: str
    port: int
    user: str
    password: str
    scheme: str
    """`https`: it is spoken to under TLS."""
    variable: str
    """The one of the environment that names it."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port} (of {self.variable})"

    def __repr__(self) -> str:
        return str(self)


def proxies_of_environment() -> dict[str, str]:
    """Return what the environment says of proxies. Goes through all of it: too long for each request."""
    return urllib.request.getproxies_environment()


def proxy_for(scheme: str, host: str, port: int, proxies: dict[str, str]) -> Proxy | None:
    """Return which of `proxies` is for an address; None where there is none, or it is not to be used for it.

    Raises `ConfigError` where what the environment says is no proxy.
    """
    kind = next((kind for kind in (scheme, "all") if proxies.get(kind)), None)
    if kind is None or _is_excluded(host, port, proxies):
        return None
    return _read(proxies[kind], f"{kind}_proxy")


def _is_excluded(host: str, port: int, proxies: dict[str, str]) -> bool:
    # Called by its name: the other one asks the system's own settings too, and looks at the environment only after.
    if urllib.request.proxy_bypass_environment(f"{host}:{port}", proxies):  # type: ignore[attr-defined]
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False


def _read(text: str, variable: str) -> Proxy:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("http://")
    if not host or parts.scheme not in ("http", "https"):
        # Not shown: it may have a password in it.
        raise ConfigError(
            f"{variable} in the environment names no HTTP proxy: write http://HOST:PORT, or https://HOST:PORT for one "
            "under TLS, or unset it"
        )
    port = port or (443 if parts.scheme == "https" else 80)
    return Proxy(host, port, unquote(parts.username or ""), unquote(parts.password or ""), parts.scheme, variable)
