"""Which places can be an origin, and how the URL of a file below one is spelled.

A URL with a query is a template: `https://HOST/DIR/{path}?KEY=VALUE`, where each file's path takes its place. Its query
may be what an origin lets people in by, so it is shown nowhere (`shown`); the tracker keeps it with the order, since
caches need it. User and password are refused: those would be sent to each server behind the name.

`check_origin` looks at the text alone, so the tracker can refuse a mistyped origin when it is ordered. What it lets
through may still be of no use on some cache: a directory that is not there, a name that nobody knows.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from p2pfill.errors import ConfigError

_SAFE = "/%:@!$&'()*+,;=~-._"

_HOST_CHARS_MAX: Final = 253
"""The longest DNS name."""

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
"""One part of a DNS name. The underscore is no letter of host names, but some private networks use it."""

_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
"""A host whose last part is one of these is read as an IPv4 address everywhere, since no top-level domain is."""

_CREDENTIALS: Final = re.compile(r"^([a-z0-9]{1,8}://)[^/]*@", re.IGNORECASE)
"""What stands before the host of a URL and an @."""
_SCHEME_ALONE: Final = r"\1"

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_SHOWN_CHARS_MAX: Final = 200

_PLACE: Final = "{path}"
"""Where a file's path goes in a template."""


def check_origin(url: str) -> str:
    """Return the normalised origin that `url` names: a base URL, or an absolute directory. Raises `ConfigError`.

    Nothing but the text is looked at: no name is looked up, no directory opened.
    """
    if is_http(url):
        return http_base(url)
    if is_bucket(url):
        return bucket_base(url)
    path = _directory_text(url)
    _check_encoding(url)
    if not path.startswith("/"):
        raise ConfigError(
            f"origin {_shown(url)} is no URL and no absolute directory: write http://HOST[:PORT]/PATH, or /DIRECTORY"
        )
    return path


def is_http(url: str) -> bool:
    """Tell whether `url` is meant as an HTTP or HTTPS address."""
    return url[:8].lower().startswith(("http://", "https://"))


class Bucket(NamedTuple):
    """A place in an object store; an empty region or endpoint is what the environment says, or the store's default."""

    bucket: str
    prefix: str
    region: str
    endpoint: str


def is_bucket(url: str) -> bool:
    """Tell whether `url` is meant as a place in a bucket."""
    return url[:5].lower() == "s3://"


def bucket_base(url: str) -> str:
    """Return `s3://BUCKET/PREFIX`, normalised, with the region and endpoint that it names. Raises `ConfigError`."""
    where = read_bucket(url)
    query = urlencode({key: value for key, value in (("region", where.region), ("endpoint", where.endpoint)) if value})
    return f"s3://{where.bucket}{'/' if where.prefix else ''}{where.prefix}{'?' if query else ''}{query}"


def read_bucket(url: str) -> Bucket:
    """Return what `s3://BUCKET/PREFIX?region=REGION&endpoint=URL` says; prefix and query may be left out.

    The prefix is what objects are called, so nothing in it is decoded. Raises `ConfigError`.
    """
    _check_text(url)
    said = _shown(url)
    place, _, query = url[5:].partition("?")
    bucket, _, prefix = place.partition("/")
    prefix = prefix.strip("/")
    if "@" in bucket:
        raise ConfigError(f"origin {said} carries credentials: they belong into the environment of the nodes")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"origin {said} names no bucket: write s3://BUCKET/PREFIX, the bucket in 3 to 63 small letters, digits, "
            "dots and hyphens"
        )
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise ConfigError(f"origin {said} has an empty or relative part in its prefix: write s3://BUCKET/PREFIX")
    settings: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("region", "endpoint") or key in settings:
            raise ConfigError(
                f"origin {said} says {key[:20]!r} after the question mark: only region and endpoint may be given "
                "there, and credentials belong into the environment of the nodes"
            )
        settings[key] = value
    region = settings.get("region", "")
    if region and not re.fullmatch(r"[a-z0-9-]{1,32}", region):
        raise ConfigError(f"origin {said}: {region[:40]!r} is no region, as eu-central-1 is one")
    endpoint = settings.get("endpoint", "")
    if "?" in endpoint or _PLACE in endpoint:
        raise ConfigError(f"origin {said} has an endpoint with a query or {_PLACE} in it: write https://HOST[:PORT]")
    return Bucket(bucket, prefix, region, http_base(endpoint) if endpoint else "")


def shown(url: str) -> str:
    """Return what people, and all but the cache that reads, know an origin or a file of it by: without its query.

    User and password are refused where origins are ordered; should there be some all the same, they are left out too.
    """
    base, mark, query = url.partition("?")
    if mark and (is_http(url) or (is_bucket(url) and "@" in query)):
        query = "…"
    return f"{_CREDENTIALS.sub(_SCHEME_ALONE, base)}{mark}{query}"


def http_base(url: str) -> str:
    """Return `url` normalised and percent-encoded: a template, or without a trailing slash. Raises `ConfigError`."""
    parts, head = _read_http(url)
    said = _shown(url)
    if "#" in url:
        raise ConfigError(f"origin URL {said} has a fragment: give the base URL below which the title's files lie")
    if parts.path.count(_PLACE) > 1:
        raise ConfigError(f"origin URL {said} says {_PLACE} more than once: a file's path has one place")
    if "?" in url and _PLACE not in parts.path:
        raise ConfigError(
            f"origin URL {said} has a query: give the plain base URL below which the title's files lie, or say where a "
            f"file's path goes, as in https://HOST/DIR/{_PLACE}?KEY=VALUE"
        )
    path = _PLACE.join(quote(part, safe=_SAFE) for part in parts.path.split(_PLACE))
    query = f"?{quote(parts.query, safe=_SAFE + '?')}" if "?" in url else ""
    return f"{head}{path if _PLACE in path else path.rstrip('/')}{query}"


def http_url(url: str) -> str:
    """Return an absolute URL to which a server redirects, normalised and percent-encoded. Raises `ConfigError`."""
    parts, head = _read_http(url)
    query = f"?{quote(parts.query, safe=_SAFE + '?')}" if parts.query else ""
    return f"{head}{quote(parts.path, safe=_SAFE) or '/'}{query}"


def _read_http(url: str) -> tuple[SplitResult, str]:
    """Return the parts of a URL, and its scheme and host as they were given. Raises `ConfigError`."""
    _check_text(url)
    said = _shown(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise ConfigError(f"origin URL {said} cannot be read: {err}") from err
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"origin URL {said} cannot be used: its scheme must be http or https")
    host = parts.hostname
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"origin URL {said} carries credentials: origin URLs are shown in status screens and logs; "
            "give the URL without user and password and allow the caches by address or client certificate"
        )
    if not host:
        raise ConfigError(f"origin URL {said} has no host: write http://HOST[:PORT]/PATH")
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in parts.netloc):
        raise ConfigError(f"origin URL {said} has a blank or control character in its host")
    if port == 0:
        raise ConfigError(f"origin URL {said} has port 0, on which nothing can listen: give the server's port")
    if fault := _host_fault(host, bracketed="[" in parts.netloc):
        raise ConfigError(f"origin URL {said} cannot be used: {fault}")
    return parts, f"{parts.scheme}://{parts.netloc}"


def file_url(base: str, path: str) -> str:
    """Return the URL of the title's file `path` (UTF-8, '/' between components) below `base`, or of a template."""
    quoted = quote(path, safe="/")
    place, mark, query = base.partition("?")
    return f"{place.replace(_PLACE, quoted)}{mark}{query}" if _PLACE in place else f"{base}/{quoted}"


def directory_path(url: str) -> Path:
    """Return the absolute path that a file:// URL or a plain path names; nothing is looked at. Raises `ConfigError`."""
    return Path(_directory_text(url)).absolute()


def directory(url: str) -> Path:
    """Return the absolute directory that a file:// URL or a plain path names. Raises `ConfigError`."""
    path = directory_path(url)
    try:
        # For some errors `is_dir` returns, for others it raises: a name too long, no right to look.
        is_there = path.is_dir()
    except OSError as err:
        raise ConfigError(
            f"origin {_shown(url)} cannot be used: {err.strerror or err}; give the directory that was published, and "
            "let this user read it"
        ) from err
    if not is_there:
        raise ConfigError(f"origin {_shown(url)}: {path} is not a directory; give the directory that was published")
    return path


def _directory_text(url: str) -> str:
    """Return the path that a file:// URL or a plain path spells. Raises `ConfigError`."""
    text = url
    if url[:5].lower() == "file:":
        _check_text(url)
        try:
            parts = urlsplit(url)
        except ValueError as err:
            raise ConfigError(f"origin URL {_shown(url)} cannot be read: {err}") from err
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigError(f"origin URL {_shown(url)} cannot be used: write file:///ABSOLUTE/DIRECTORY")
        text = unquote(parts.path)
    elif "://" in url and not url.startswith("/"):  # a directory may be called so
        raise ConfigError(f"origin URL {_shown(url)} cannot be used: its scheme must be http, https, s3 or file")
    elif re.match("https?:", url, re.IGNORECASE):
        raise ConfigError(f"origin URL {_shown(url)} cannot be used: write http://HOST[:PORT]/PATH")
    if not text or "\0" in text or re.match("//[^/]*@", text):
        raise ConfigError(f"origin {_shown(url)} does not name a directory")
    return text


def _check_text(url: str) -> None:
    # `urlsplit` leaves out tabs and line ends without a word, so the URL would not be the one that was given.
    if any(char in url for char in "\t\r\n"):
        raise ConfigError(f"origin {_shown(url)} has a tab or a line end in it")
    _check_encoding(url)


def _check_encoding(url: str) -> None:
    try:
        url.encode()
    except UnicodeEncodeError as err:
        raise ConfigError(f"origin {_shown(url)} has a character that UTF-8 cannot say ({err.reason})") from err


def _host_fault(host: str, *, bracketed: bool) -> str:
    """Return why a host cannot be one, empty where it can."""
    if bracketed or ":" in host:
        try:
            IPv6Address(host)
        except ValueError as err:
            return f"its host is no IPv6 address ({err})"
        return "its host is an IPv6 address with a zone, which only one machine can use" if "%" in host else ""
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as err:
        return f"its host is no international domain name ({err})"
    labels = name.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            IPv4Address(name)
        except ValueError:
            return "its host is no IPv4 address: write four numbers of 0 to 255, as in 192.0.2.11"
        return ""
    if len(name) > _HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        return (
            f"{_shown(host)} is no host name: write letters, digits and hyphens between dots, each part of 1 to 63 "
            "characters"
        )
    return ""


def _shown(url: str) -> str:
    # Also one that cannot be read may have a password in it, or a query that is secret.
    said = re.sub(r"^((?:[a-z0-9+.-]{0,16}:)?[/\\]*)[^/]*@", r"\1", re.sub("//[^/]*@", "//", url), flags=re.IGNORECASE)
    if "://" in said or is_http(said):
        said = re.sub(r"[?#].*", "?…", said, flags=re.DOTALL)
    return repr(said[:_SHOWN_CHARS_MAX])
