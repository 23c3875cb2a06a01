"""Which places can be an origin, and how the URL of a file below one is spelled.

Credentials, queries and fragments are refused: origin URLs travel through the tracker and are shown in status
screens and logs, so a secret in one would be everywhere.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from p2pfill.errors import ConfigError

_SAFE = "/%:@!$&'()*+,;=~-._"


def is_http(url: str) -> bool:
    """Tell whether `url` is meant as an HTTP or HTTPS address."""
    return url[:8].lower().startswith(("http://", "https://"))


def http_base(url: str) -> str:
    """Return `url` normalised, percent-encoded and without a trailing slash. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise ConfigError(f"origin URL {url[:200]!r} cannot be read: {err}") from err
    host = parts.hostname
    shown = f"{parts.scheme}://{host or ''}{f':{port}' if port else ''}{parts.path}"[:200]
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"origin URL {shown!r} carries credentials: origin URLs are shown in status screens and logs; "
            "give the URL without user and password and allow the caches by address or client certificate"
        )
    if "?" in url or "#" in url:
        raise ConfigError(
            f"origin URL {shown!r} has a query or fragment: give the plain base URL below which the title's files lie"
        )
    if not host:
        raise ConfigError(f"origin URL {shown!r} has no host: write http://HOST[:PORT]/PATH")
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in parts.netloc):
        raise ConfigError(f"origin URL {shown!r} has a blank or control character in its host")
    return f"{parts.scheme}://{parts.netloc}{quote(parts.path, safe=_SAFE).rstrip('/')}"


def file_url(base: str, path: str) -> str:
    """Return the URL of the title's file `path` (UTF-8, '/' between components) below `base`."""
    return f"{base}/{quote(path, safe='/')}"


def directory(url: str) -> Path:
    """Return the absolute directory that a file:// URL or a plain path names. Raises `ConfigError`."""
    text = url
    if url[:5].lower() == "file:":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigError(f"origin URL {url[:200]!r} cannot be used: write file:///ABSOLUTE/DIRECTORY")
        text = unquote(parts.path)
    elif "://" in url:
        raise ConfigError(f"origin URL {url[:200]!r} cannot be used: its scheme must be http, https or file")
    if not text or "\0" in text:
        raise ConfigError(f"origin {url[:200]!r} does not name a directory")
    path = Path(text).absolute()
    if not path.is_dir():
        raise ConfigError(f"origin {url[:200]!r}: {path} is not a directory; give the directory that was published")
    return path
