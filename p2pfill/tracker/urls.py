"""How the URL of a tracker is written. Looked at wherever one is given, before anything is sent there."""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from p2pfill._version import __version__
from p2pfill.errors import ConfigError

PORT: Final = 7070
"""Where a tracker listens unless it is told otherwise; for examples in messages."""

PORT_MAX: Final = 65535

_SHOWN_CHARS_MAX: Final = 200

_BARE: Final = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?P<port>:\d+)?/*", re.ASCII)
"""An address that lacks nothing but its scheme, and maybe its port."""

_SAFE: Final = "/?&=%:@!$'()*+,;~"
"""Beside letters, digits and `_.-`: what URLs have between words, and what is quoted."""


def tracker_url(text: str) -> str:
    """Return a tracker's URL without a slash at its end. Raises `ConfigError` that shows how to write it."""
    if not text.lower().startswith(("http://", "https://")):
        bare = _BARE.fullmatch(text)
        right = f"http://{bare['host']}{bare['port'] or f':{PORT}'}" if bare is not None else "http://HOST:PORT"
        raise _unusable(text, f"write {right}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _unusable(text, f"{error}; write http://HOST:PORT") from error
    if not parts.hostname or port == 0 or "?" in text or "#" in text or not text.isprintable() or " " in text:
        raise _unusable(text, "write http://HOST:PORT")
    return text.rstrip("/")


class Place(NamedTuple):
    """Where a tracker is, and what is said with each call there."""

    host: str
    port: int
    is_encrypted: bool
    prefix: str
    """Before the path of each call."""
    headers: list[tuple[str, str]]

    def target(self, path: str) -> str:
        """Return what to ask for, in characters that a request may have; what is quoted already stays."""
        return quote(self.prefix + path, safe=_SAFE)


def place_of(url: str) -> Place:
    """Return where the tracker at a URL is. Raises `ConfigError` as `tracker_url` does."""
    parts = urlsplit(tracker_url(url))
    is_encrypted, host, port = parts.scheme.lower() == "https", parts.hostname or "", parts.port
    try:
        if ":" in host:
            IPv6Address(host)
        elif host.replace(".", "").isdecimal():
            IPv4Address(host)
        else:
            host = host.encode("idna").decode()
    except ValueError as error:
        raise _unusable(url, f"{error}; write http://HOST:PORT") from error
    name = f"[{host}]" if ":" in host else host
    headers = [("Host", name if port is None else f"{name}:{port}"), ("User-Agent", f"p2pfill/{__version__}")]
    if parts.username or parts.password:
        who = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers.append(("Authorization", f"Basic {b64encode(who.encode()).decode()}"))
    return Place(host, port or (443 if is_encrypted else 80), is_encrypted, parts.path, headers)


def _unusable(text: str, advice: str) -> ConfigError:
    # Also one that cannot be read may have a password in it.
    shown = re.sub("//[^/]*@", "//", text)[:_SHOWN_CHARS_MAX]
    return ConfigError(f"tracker URL {shown!r} cannot be used: {advice}")
