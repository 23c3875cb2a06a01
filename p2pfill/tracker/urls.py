"""How the URL of a tracker is written. Looked at wherever one is given, before anything is sent there."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Final
from urllib.parse import urlsplit

from p2pfill.errors import ConfigError

PORT: Final = 7070
"""Where a tracker listens unless it is told otherwise; for examples in messages."""

PORT_MAX: Final = 65535

_SHOWN_CHARS_MAX: Final = 200

_BARE: Final = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?P<port>:\d+)?/*", re.ASCII)
"""An address that lacks nothing but its scheme, and maybe its port."""

_PLAIN: Final = re.compile(r"https?://(?P<host>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)(:(?P<port>\d{1,5}))?")


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


def is_plain(url: str) -> bool:
    """Tell whether a URL is only a name in ASCII, or an address in IPv4, and maybe a port: any HTTP client takes it."""
    if (plain := _PLAIN.fullmatch(url)) is None or int(plain["port"] or 0) > PORT_MAX:
        return False
    host = plain["host"]
    if not host.replace(".", "").isdigit():
        return True
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _unusable(text: str, advice: str) -> ConfigError:
    # Also one that cannot be read may have a password in it.
    shown = re.sub("//[^/]*@", "//", text)[:_SHOWN_CHARS_MAX]
    return ConfigError(f"tracker URL {shown!r} cannot be used: {advice}")
