"""An origin over HTTP or HTTPS: one request at a time, and what its answer means.

The digests of the manifest decide what is right, so of an answer it only matters from where on in the file its bytes
are. Lengths that it lacks (chunked, or ended by the close) the manifest knows; entity tags are not looked at, since
the servers behind one name may differ in them. What cannot be bytes of the file is refused at once and named: an
encoding that nobody asked for, unless the length is that of the file, and another size.

Rejected: obstore's HTTP store, which was here before. It wants a Content-Length, tells no headers (so a second request
had to ask for Retry-After), and does not tell an answer that ignores a range from one that it cannot read. And httpx2,
with which the tracker is asked: it takes three times the processor time of `http.client` for a small file, copies each
byte several times, and cannot be stopped while it waits; see docs/experiments.md, "Reading origins".
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import threading
import time
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import urljoin, urlsplit

from p2pfill._version import __version__
from p2pfill.errors import ConfigError
from p2pfill.origin import urls
from p2pfill.origin.access import CAUSE
from p2pfill.origin.bodies import ANOTHER_SIZE, RESTORE, Body, Part, check_size
from p2pfill.origin.errors import (
    OriginCancelled,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    TryAgain,
)
from p2pfill.origin.proxies import Proxy, proxies_of_environment, proxy_for
from p2pfill.origin.retry_after import parse_retry_after
from p2pfill.origin.wire import Exchange, Wire

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from p2pfill.origin.settings import OriginSettings
    from p2pfill.origin.watch import Watch

REDIRECTS_MAX: Final = 5
"""A CDN redirects once or twice; more is a loop."""

_FILES: Final = frozenset((200, 206))
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_MISSING: Final = frozenset((404, 410))
PASSING: Final = frozenset((408, 425, 429))
"""Of the statuses that blame the request, those that ask for another try."""
_GATEWAYS: Final = frozenset((502, 503, 504))
"""A proxy says these by itself where it cannot reach the origin."""

_KEEP_IDLE_S: Final = 20.0
"""An idle connection is closed then: before most servers do it, which would cost the next request a try."""

_DRAIN_BYTES_MAX: Final = 16 * 1024
"""So much of an answer that is no part of the file is read, so that its connection serves again."""

_READ_BYTES: Final = 1024 * 1024
"""What is read into place at a time: between two of these a read that is not wanted any more ends."""

_HEAD_BYTES_MAX: Final = 64 * 1024
"""Signed redirects and cookies of CDNs take a few KiB."""

_FIELDS_MAX: Final = 128
"""Lines of them. Servers send a dozen or two."""

_LINE_ENDS: Final = (b"\r\n", b"\n", b"")
_HEAD_END: Final = re.compile(rb"(?:\A|\n)\r?\n")

_TRAILERS_MAX: Final = 100
"""Nobody sends more than a few."""
_TRAILER_BYTES_MAX: Final = 64 * 1024 + 1

_CHUNK_HEAD_BYTES_MAX: Final = 4 * 1024
"""The size of a chunk, with extensions, which nobody sends."""
_CHUNK_HEAD: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*[;\r\n]")

_INFORMS_MAX: Final = 8
"""Answers that only inform, as Early Hints, before the one that counts."""

_PLACES_MAX: Final = 64
"""Hosts that are remembered. Redirects may lead to any number of them."""

_CODINGS: Final = frozenset(("gzip", "x-gzip", "br", "deflate", "zstd", "compress"))
"""What an answer may say that it was packed with; its other words are not repeated."""

_STATUS: Final = re.compile(r"[1-9][0-9]{2}")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


ELSEWHERE: Final = "the place to which it redirects"


def door(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a normalised URL, as they are connected to."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = host if host.isascii() else host.encode("idna").decode()
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)


class _Place(NamedTuple):
    """Whom a connection leads to."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None


class _IdleEnded(Exception):
    """A connection that was kept has ended, and a new one is to be made."""


class WebBackend:
    """The origin at the normalised URL `base`. Raises `ConfigError` where the environment's certificates are wrong."""

    follows = True
    """Whether redirects are followed; each leads to what is checked as a new origin is."""

    def __init__(self, base: str, settings: OriginSettings) -> None:
        self.name = urls.shown(base)
        self._base = base
        self._settings = settings
        self._access = settings.access
        self._lock = threading.Lock()
        """Held for a few operations in memory only: an event loop closes the backend."""
        self.is_closed = False
        self._idle: dict[_Place, list[Wire]] = {}
        self._proxies = proxies_of_environment()
        self._places: dict[str, tuple[_Place, str, str]] = {}
        """Scheme and host as they stand in URLs -> whom they mean, what stands before each path, and the headers of a
        request: found out once."""
        first = urls.file_url(base, "")
        self._last = "", first, urls.shown(first)
        """The path that was asked for last, its URL, and that for people. Replaced as a whole."""
        self._trust: ssl.SSLContext | None = None
        if base.startswith("https:"):
            self._context()  # so that certificates that cannot be read are named at once

    def name_of(self, path: str) -> str:
        """Return a file's URL without its query, which may be secret."""
        return self._of(path)[2]

    def url_of(self, path: str) -> str:
        """Return the URL at which a file is asked for."""
        return self._of(path)[1]

    def _of(self, path: str) -> tuple[str, str, str]:
        last = self._last
        if last[0] != path:  # chunk after chunk is of the same file
            url = urls.file_url(self._base, path)
            last = self._last = path, url, urls.shown(url)
        return last

    def open(self, watch: Watch, part: Part, *, ranged: bool) -> Body:
        """Ask for a part of a file, over as many redirects as are allowed."""
        url, name = self.url_of(part.entry.path), self.name_of(part.entry.path)
        asked = (part.start, part.stop) if ranged else None
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._send(watch, name, url, asked)
            if answer.status not in _REDIRECTS or not self.follows:
                break
            location = answer.header("location")
            answer.drop()
            url = self._redirected(name, url, location)
        else:
            _refuse(name, f"it redirects more than {REDIRECTS_MAX} times", "check the server for a loop")
        try:
            position, end = self._place(name, answer, part, asked)
        except BaseException:
            answer.drop()
            raise
        ignores_range = answer.status == 200 and asked is not None
        return Body(watch, position, end, answer.read_into, answer.drop, ignores_range=ignores_range)

    def close(self) -> None:
        """Close idle connections; threads that read find out by themselves."""
        with self._lock:
            self.is_closed = True
            idle, self._idle = self._idle, {}
        for wires in idle.values():
            for wire in wires:
                wire.close()

    # ---- requests

    def _send(self, watch: Watch, name: str, url: str, asked: tuple[int, int] | None) -> Answer:
        """Ask, and return the answer, of which the head has come. Raises `TryAgain` and `OriginError`."""
        try:
            place, before, headers, target = self._read(url)
        except OriginRefused as error:
            raise _named(name, error) from error
        wanted = "" if asked is None else f"Range: bytes={asked[0]}-{asked[1] - 1}\r\n"
        request = f"GET {before}{target} HTTP/1.1\r\n{headers}{wanted}\r\n".encode("ascii")
        exchange = Exchange(watch, name, _through(place.proxy), self._settings)
        watch.count(requests=1)
        kept = self._take_idle(place)
        if kept is not None:
            with suppress(_IdleEnded):
                return self._ask(kept, request, exchange, place, is_kept=True)
        return self._ask(self._reach(place, exchange, name), request, exchange, place)

    def _ask(self, wire: Wire, request: bytes, exchange: Exchange, place: _Place, *, is_kept: bool = False) -> Answer:
        """Send a request, and return the answer, of which the head has come.

        Raises `_IdleEnded` where the connection was kept, and ended without a word: servers end those that are idle,
        and may do so while the request is on its way (RFC 9112, section 9.3.1). That is nobody's failure.
        """
        try:
            wire.exchange = exchange
            wire.send(request)
            response = _read_head(wire, "GET", place.proxy)
        except TryAgain as error:
            wire.close()
            if is_kept and wire.is_cut and exchange.is_unanswered:
                raise _IdleEnded from error
            raise
        except BaseException:
            wire.close()
            raise
        exchange.begin_body()
        return Answer(response, wire, exchange, place, self)

    def _reach(self, place: _Place, exchange: Exchange, name: str) -> Wire:
        """Return a new connection. Where a redirect leads is a word of an answer, and so for the log alone."""
        try:
            return self._connect(place, exchange, name)
        except TryAgain as error:
            if not self._is_elsewhere(place):
                raise
            raise TryAgain(f"{ELSEWHERE} does not answer", said=str(error)) from error
        except OriginRefused as error:
            if self._is_elsewhere(place) and error.cause != CAUSE:
                error.cause = error.told = f"{ELSEWHERE} cannot be used; the log of this cache says more"
            raise

    def _is_elsewhere(self, place: _Place) -> bool:
        return self.follows and (place.scheme, place.host, place.port) != door(self._base)

    def _connect(self, place: _Place, exchange: Exchange, name: str) -> Wire:
        proxy = place.proxy
        host, port = (proxy.host, proxy.port) if proxy else (place.host, place.port)
        whom = str(proxy) if proxy else f"{place.host}:{place.port}"
        permits = partial(self._access.permits, place.scheme, place.host, place.port)
        try:
            # A proxy is the operator's own choice, and looks up the origin's name itself.
            wire = Wire(host, port, whom, self._settings.connect_max_s, (lambda address: True) if proxy else permits)
        except OriginRefused as error:
            raise _named(name, error) from error
        try:
            if proxy and proxy.scheme == "https":
                wire.start_tls(self._context(), proxy.host, str(proxy))
            if place.scheme == "https":
                if proxy:
                    wire.exchange = exchange
                    _make_tunnel(wire, place, proxy, name)
                wire.start_tls(self._context(), place.host)
        except OriginRefused as error:
            wire.close()
            raise _named(name, error) from error
        except BaseException:
            wire.close()
            raise
        return wire

    def _read(self, url: str) -> tuple[_Place, str, str, str]:
        """Return whom to ask for a normalised URL, what stands before what is asked for, the headers, and the path.

        Raises `ConfigError`, and `OriginRefused` where nobody may be asked there.
        """
        path_at = url.find("/", url.index("//") + 2)
        head, target = (url, "/") if path_at < 0 else (url[:path_at], url[path_at:])
        known = self._places.get(head)
        if known is None:
            scheme, host, port = door(head)
            place = _Place(scheme, host, port, proxy_for(scheme, host, port, self._proxies))
            self._access.check_place(scheme, host, port, by_proxy=place.proxy is not None)
            netloc = _bracketed(host) if urlsplit(head).port is None else f"{_bracketed(host)}:{port}"
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            lines = [
                f"Host: {netloc}", f"User-Agent: p2pfill/{__version__}", "Accept: */*", "Accept-Encoding: identity",
            ]  # fmt: skip
            is_relayed = place.proxy is not None and scheme == "http"
            if place.proxy is not None and is_relayed:
                lines += _authorization(place.proxy)
            before = f"http://{netloc}" if is_relayed else ""
            known = self._places[head] = place, before, "".join(f"{line}\r\n" for line in lines)
        return *known, target

    def _take_idle(self, place: _Place) -> Wire | None:
        """Return an idle connection, the one that was used last. Raises `OriginCancelled` where all is closed."""
        while True:
            with self._lock:
                if self.is_closed:
                    raise OriginCancelled(f"{self.name}: reading was cancelled")
                wires = self._idle.get(place)
                if not wires:
                    return None
                wire = wires.pop()
                if not wires:
                    del self._idle[place]  # or redirects would leave one behind for each place
            if wire.is_fresh(_KEEP_IDLE_S):
                return wire
            wire.close()

    def keep(self, place: _Place, wire: Wire) -> None:
        """Keep a connection for another request, or close it."""
        wire.exchange, wire.idle_since = None, time.monotonic()
        with self._lock:
            # Redirects may lead to any number of places.
            if not self.is_closed and sum(map(len, self._idle.values())) < 2 * self._settings.concurrency:
                self._idle.setdefault(place, []).append(wire)
                return
        wire.close()

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._trust is None:
                self._trust = _trusted()
            return self._trust

    def _redirected(self, name: str, url: str, location: str) -> str:
        """Return where a redirect leads. Raises `OriginRefused` where it must not be followed."""
        advice = "mend the server's redirect, or order the origin where it leads"
        try:
            target = urls.http_url(urljoin(url, location) if location else "")
        except (ConfigError, ValueError) as error:
            _refuse(name, "its redirect cannot be followed: it names no place", advice, error)
        if url.startswith("https:") and not target.startswith("https:"):
            _refuse(name, "its redirect cannot be followed: it leads from https to http", advice)
        return target

    # ---- answers

    def _place(self, name: str, answer: Answer, part: Part, asked: tuple[int, int] | None) -> tuple[int, int]:
        """Return which bytes of the file an answer has: from where, and up to where. Raises what is wrong with it."""
        if answer.status not in _FILES:
            self.judge(name, answer, part)
        size, length = part.entry.size, answer.header("content-length")
        found = _RANGE.fullmatch(answer.header("content-range").strip())
        encoding = answer.header("content-encoding").strip().lower()
        if encoding not in ("", "identity") and not _is_as_published(answer.status, length, found, size):
            _refuse(
                name,
                f"it answers with Content-Encoding: {encoding if encoding in _CODINGS else 'unknown'}, which was not "
                "asked for",
                "switch compression off for these files at the server, or at the CDN in front of it",
            )
        if answer.status == 200:
            if length.isdecimal():
                check_size(name, int(length[:20]), size)
            return 0, size
        if found and found[3] != "*":
            check_size(name, int(found[3]), size)
        if asked is None or not found or int(found[1]) != asked[0] or not asked[0] <= int(found[2]) < size:
            _refuse(name, "it answers with another range than was asked for", "check the server's set-up")
        return asked[0], int(found[2]) + 1

    def judge(self, name: str, answer: Answer, part: Part) -> NoReturn:
        """Raise what an answer means that has no bytes of the file."""
        status, proxy = answer.status, answer.proxy
        if status in _MISSING:
            cause, advice = "not found at the origin", "check that the URL is the directory that was published"
            raise OriginObjectMissing(f"{name}: {cause}{_through(proxy)}; {advice}", cause=cause, advice=advice)
        if status == 416:
            raise OriginObjectChanged(
                f"{name}: truncated at the origin: it ends before byte {part.start + 1}, published were "
                f"{part.entry.size} bytes; {RESTORE}",
                cause=ANOTHER_SIZE,
                advice=RESTORE,
            )
        if status == 407:
            _refuse(
                name,
                f"{proxy or 'a proxy'} wants to know who asks",
                f"give user and password in {proxy.variable if proxy else 'http_proxy'} in the environment of the node",
                said=f"{proxy or 'a proxy'} wants to know who asks: status 407",
            )
        said = f"status {status}{_through(proxy)}"
        if status in _GATEWAYS and proxy is not None:
            said += ", which the proxy may say where it cannot reach the origin"
        if status >= 500 or status in PASSING:
            retry_after, said_at = answer.header("retry-after"), answer.header("date")
            retry_after_s = parse_retry_after(retry_after, datetime.now(UTC), said_at)
            raise TryAgain(f"it fails, or is asked too often{_through(proxy)}", retry_after_s, said=said)
        advice = "check its access rules" if status in (401, 403) else "check the server's set-up"
        _refuse(name, f"the origin refuses it{_through(proxy)}", advice, said=f"the origin refuses it: {said}")


class Answer:
    """An answer whose head is there."""

    def __init__(
        self, response: _Response, wire: Wire, exchange: Exchange, place: _Place, backend: WebBackend
    ) -> None:
        self.status = response.status
        self.proxy = place.proxy
        self._response = response
        self._wire = wire
        self._exchange = exchange
        self._place = place
        self._backend = backend
        self._is_dropped = False

    def header(self, name: str) -> str:
        """Return the value of a header, named in small letters; empty where it is not there."""
        return self._response.fields.get(name, "")

    def text(self, size_max: int) -> str:
        """Return the first bytes of what it says, as text; what cannot be had is left out."""
        room = memoryview(bytearray(size_max))
        count = 0
        with suppress(TryAgain):
            while count < size_max and (more := self.read_into(room[count:], self._exchange.watch)):
                count += more
        return bytes(room[:count]).decode(errors="replace")

    def read_into(self, buffer: memoryview, watch: Watch) -> int:
        """Put what comes next into a buffer and return how much it is; nothing at the end.

        Raises `TryAgain` where it breaks off, and `OriginCancelled`.
        """
        self._exchange.resume(watch)
        try:
            count = self._response.readinto(buffer[:_READ_BYTES])
        except http.client.IncompleteRead as error:
            count = len(error.partial)
        except (http.client.HTTPException, ValueError) as error:
            raise TryAgain("the connection broke off" + _through(self.proxy)) from error
        if not count and self._wire.fault is not None:
            raise self._wire.fault
        return count

    def drop(self) -> None:
        """Have done with it. Where next to nothing is left of it, that is read, and the connection serves again."""
        if self._is_dropped:
            return
        self._is_dropped = True
        response, wire = self._response, self._wire
        may_serve = not response.will_close and wire.fault is None and not self._backend.is_closed
        is_whole = response.isclosed()
        if not is_whole:
            if may_serve:
                self._drain()
                is_whole = response.isclosed()
            response.close()
        if is_whole and may_serve and wire.fault is None:
            self._backend.keep(self._place, wire)
        else:
            wire.close()

    def _drain(self) -> None:
        """Read what is left, if that is next to nothing."""
        self._exchange.begin_tail()
        left = memoryview(bytearray(_DRAIN_BYTES_MAX))
        while left:
            try:
                count = self._response.readinto(left)
            except (http.client.HTTPException, ValueError):
                return
            if self.status in _FILES:
                self._exchange.watch.count(received=count)
            left = left[count:]
            if not count or self._response.isclosed():
                return


class _Response(http.client.HTTPResponse):
    """An answer whose head is read here, and whose trailers have an end.

    The library reads a head as that of a mail, which took half of the processor time of a small file.
    """

    wire: Wire
    """On which it comes."""
    exchange: Exchange | None = None
    """What is told how much of what comes is no part of the file."""
    _is_ahead = True
    """Some of the body may have been read together with the head."""

    def begin(self) -> None:
        """Read the head, whatever its status. Raises `http.client.HTTPException`."""
        first, *lines = self._read_head().decode("iso-8859-1").split("\n")
        if not first:
            raise http.client.RemoteDisconnected("")
        version, _, rest = first.partition(" ")
        status = rest.lstrip()[:3]
        if not version.startswith("HTTP/1.") or not _STATUS.fullmatch(status):
            raise http.client.BadStatusLine("")
        self.code = self.status = int(status)
        self.version = 10 if version == "HTTP/1.0" else 11
        self.fields = fields = _fields(lines)
        self.headers = self.msg = fields  # type: ignore[assignment]  # the library asks it only for names
        self.chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = fields.get("content-length", "").partition(",")[0].strip()
        self.length = int(length) if _LENGTH.fullmatch(length) and not self.chunked else None
        if self.status < 200 or self.status in (204, 304):
            self.length = 0
        connection = fields.get("connection", "").lower()
        goes_on = "keep-alive" in connection if self.version == 10 else "close" not in connection
        self.will_close = not goes_on or (not self.chunked and self.length is None)

    def _read_head(self) -> bytes:
        """Return the head, with the empty line; nothing where it does not come."""
        # As a rule it comes at once, and a call for each line took longer than all else here.
        ahead = self.fp.peek()
        if not ahead:
            return b""
        found = _HEAD_END.search(ahead)
        if found and found.start() and ahead.count(b"\n", 0, found.end()) <= _FIELDS_MAX + 2:
            return self.fp.read(found.end())
        lines: list[bytes] = []
        left = _HEAD_BYTES_MAX
        while (line := self.fp.readline(left + 1)) not in _LINE_ENDS:
            left -= len(line)
            if left < 0 or len(lines) > _FIELDS_MAX:
                raise http.client.LineTooLong("head")
            lines.append(line)
        return b"".join(lines)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Put what comes next of the body into a buffer and return how much it is; nothing at the end."""
        if self.chunked or self.length is None or self.fp is None or not self.wire.is_plain:
            return super().readinto(buffer)
        view, count = memoryview(buffer)[: self.length], 0
        if self._is_ahead:
            ahead = self.wire.read_ahead()
            count = self.fp.readinto(view[:ahead]) if ahead else 0
            self._is_ahead = ahead > count
        if count < len(view):
            count += self.wire.receive_body(view[count:])
        self.length -= count
        if not self.length or (view and not count):
            self.close()
        return count

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_CHUNK_HEAD_BYTES_MAX + 1)
        found = _CHUNK_HEAD.match(line)
        if len(line) > _CHUNK_HEAD_BYTES_MAX or found is None:
            raise ValueError("no size of a chunk")  # which the library takes for the end of what came
        if self.exchange is not None:
            self.exchange.heard_frame(len(line) + 2)  # with the end of the line after the chunk
        return int(found[1], 16)

    def _read_and_discard_trailer(self) -> None:
        for _ in range(_TRAILERS_MAX):
            line = self.fp.readline(_TRAILER_BYTES_MAX)
            if line in _LINE_ENDS:
                return
        raise http.client.HTTPException("trailers without an end")


def _fields(lines: list[str]) -> dict[str, str]:
    """Return the headers by their names in small letters. A line that is none is left out."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t"):  # goes on with the one before
            if name:
                fields[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower() if colon else ""
        if name:
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return fields


def _read_head(wire: Wire, method: str, proxy: Proxy | None) -> _Response:
    """Return an answer of which the head has come. Raises `TryAgain`, `OriginCancelled`."""
    sock: Any = wire  # of a socket it only uses `makefile`
    for _ in range(_INFORMS_MAX):
        response = _Response(sock, method=method)
        response.wire, response.exchange = wire, wire.exchange
        try:
            response.begin()
        except (http.client.HTTPException, ValueError) as error:
            response.close()
            if wire.fault is not None:
                raise wire.fault from error
            raise TryAgain(_said(error) + _through(proxy)) from error
        if wire.fault is not None:
            response.close()
            raise wire.fault
        if response.status >= 200:
            return response
        response.close()
    raise TryAgain("its answer only informs, and never comes" + _through(proxy))


def _make_tunnel(wire: Wire, place: _Place, proxy: Proxy, name: str) -> None:
    """Have a proxy connect us. Raises `TryAgain`, `OriginError`."""
    whom = f"{_bracketed(place.host)}:{place.port}"
    lines = [f"CONNECT {whom} HTTP/1.1", f"Host: {whom}", *_authorization(proxy)]
    wire.send(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    response = _read_head(wire, "CONNECT", proxy)
    status = response.status
    response.close()
    if 200 <= status < 300:
        return
    cause = f"{proxy} refuses to connect"
    said = f"{cause}: status {status}"
    if 400 <= status < 500 and status not in PASSING:
        _refuse(name, cause, "check what the proxy allows, and user and password in the environment", said=said)
    raise TryAgain(cause, said=said)


def _authorization(proxy: Proxy) -> list[str]:
    if not proxy.user:
        return []
    return [f"Proxy-Authorization: Basic {b64encode(f'{proxy.user}:{proxy.password}'.encode()).decode()}"]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _trusted() -> ssl.SSLContext:
    """Return whom to trust: the system's CAs, or those that the environment names. Raises `ConfigError`."""
    file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        return ssl.create_default_context(cafile=file or None, capath=directory or None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR name in the environment cannot be read: "
            f"{getattr(error, 'strerror', None) or error}; name a file of certificates in PEM, or unset it"
        ) from error


def _through(proxy: Proxy | None) -> str:
    return f" through {proxy}" if proxy is not None else ""


def _said(error: Exception) -> str:
    """Return what is wrong in words; what the remote sent stays out, since it may repeat what is secret."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(error, http.client.LineTooLong):
        return "the head of its answer is too large"
    return "its answer is not HTTP"


def _is_as_published(status: int, length: str, found: re.Match[str] | None, size: int) -> bool:
    """Tell whether an answer says the length of a file, or of a part of it, as it was published.

    Then its Content-Encoding was said of the file as it lies there, and is no matter: an archive, or what was uploaded
    with such a header. What was packed for us has another length, or none.
    """
    if status == 200 or found is None:
        return status == 200 and length == str(size)
    return found[3] == str(size) and length == str(int(found[2]) - int(found[1]) + 1)


def _named(name: str, error: OriginRefused) -> OriginRefused:
    """Return a refusal that names the file to which it happened."""
    said = str(error)
    told = OriginRefused(said if said.startswith(name) else f"{name}: {said}", cause=error.cause)
    told.told = error.told
    return told


def _refuse(name: str, cause: str, advice: str, why: Exception | None = None, *, said: str = "") -> NoReturn:
    """Raise `OriginRefused`; `said` is for the log alone, in the place of the cause."""
    raise OriginRefused(f"{name}: {said or cause}; {advice}", cause=cause, advice=advice) from why
