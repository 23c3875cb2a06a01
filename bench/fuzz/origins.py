"""What origins say, and where they may be: heads and bodies of answers, redirects, URLs, lists of what is allowed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.fuzz.target import Run, Target, check
from p2pfill.errors import ConfigError
from p2pfill.model.files import FileEntry
from p2pfill.origin import urls
from p2pfill.origin.access import read_access
from p2pfill.origin.bodies import Part
from p2pfill.origin.errors import OriginError, OriginRefused, TryAgain
from p2pfill.origin.retry_after import RETRY_AFTER_MAX_S, parse_retry_after
from p2pfill.origin.settings import OriginSettings
from p2pfill.origin.watch import Listener, Watch
from p2pfill.origin.web import REDIRECTS_MAX, WebBackend

ENTRY: Final = FileEntry("a/b c.bin", 1000, 0)
PART: Final = Part(ENTRY, 100, 300)
BODY: Final = bytes(range(200))
READ_BYTES: Final = 64
BOUND: Final = urls.http_base("http://origin.example/films")


class _Said(io.BufferedReader):
    """What a server says, over as many connections as are made."""

    def close(self) -> None:
        """Stay open for the next answer, as the reader of a connection does."""


class _Line:
    """A connection on which a server's words lie ready; as much of `wire.Wire` as is used."""

    def __init__(self, reader: _Said) -> None:
        self.exchange: Any = None
        self.fault: Any = None
        self.is_cut, self.is_plain = False, True
        self.idle_since = 0.0
        self.is_closed = False
        self._reader = reader

    def makefile(self, _: str) -> io.BufferedReader:
        """Return what is said."""
        return self._reader

    def read_ahead(self) -> int:
        """Return how much of it lies in the buffer."""
        return len(self._reader.peek(1))

    def receive_body(self, view: memoryview) -> int:
        """Put what comes next into a buffer and return how much it is; nothing at the end."""
        return self._reader.readinto(view)

    def send(self, data: bytes) -> None:
        """Look whether a request is one, and one alone."""
        check(
            data.startswith(b"GET ") and data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1, "no request", data
        )
        check(all(line and line.isascii() for line in data[:-4].split(b"\r\n")), "a line too many", data)

    def is_fresh(self, _: float) -> bool:
        """Be used once."""
        return False

    def close(self) -> None:
        """Note that nobody wants it any more."""
        self.is_closed = True


class _Backend(WebBackend):
    """An origin that is reached without a network."""

    def __init__(self, data: bytes) -> None:
        super().__init__(BOUND, OriginSettings())
        self.reader = _Said(io.BytesIO(data))  # type: ignore[arg-type]
        self.asked = 0

    def _connect(self, place: Any, exchange: Any, name: str) -> Any:
        self.asked += 1
        return _Line(self.reader)


def _head(status: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1")


def _answer_seeds() -> Iterator[bytes]:
    ranged = "Content-Range: bytes 100-299/1000"
    yield _head("206 Partial Content", ranged, "Content-Length: 200", 'ETag: "5f-1"', "Server: nginx") + BODY
    yield (
        _head("206 Partial Content", ranged, "Transfer-Encoding: chunked")
        + b"c8;x=y\r\n"
        + BODY
        + b"\r\n0\r\nA: b\r\n\r\n"
    )
    yield _head("200 OK", "Content-Length: 1000") + bytes(1000)
    yield _head("200 OK", "Content-Encoding: gzip", "Content-Length: 1000") + bytes(1000)
    yield _head("103 Early Hints", "Link: </a>") + _head("200 OK", "Connection: close") + bytes(1000)
    yield _head("302 Found", "Location: /other?a=b#c", "Content-Length: 3") + b"abc" + _head("404 Not Found")
    yield (
        _head("301 Moved", "Location: http://cdn.example:81/é")
        + _head("206 Partial", ranged, "Content-Length: 200")
        + BODY
    )
    yield _head("307 Temporary Redirect", "Location: http://169.254.169.254/latest/meta-data", "Content-Length: 0")
    yield _head("308 Permanent Redirect", "Location: ..", "Content-Length: 0") * 8
    yield _head("503 Unavailable", "Retry-After: 120")
    yield _head("429 Too Many", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", "Date: Fri, 31 Dec 1999 23:58:59 GMT")
    yield _head("416 Range Not Satisfiable", "Content-Range: bytes */900")
    yield _head("401 Unauthorized") + _head("407 Proxy")
    yield b"HTTP/1.0 200\nContent-Length: 1000\n folded\n\n" + bytes(1000)
    yield _head("206 Partial Content", ranged, "Content-Length: 200, 200") + BODY
    yield b"ICY 200 OK\r\n\r\n"
    yield b""


def open_answers(_: Path) -> Run:
    """Whatever a server says is bytes of the part of the file that was asked for, or `OriginError` or `TryAgain`, whose
    text for everybody is made of our own words. Redirects end, and lead nowhere but where a new origin might be.
    """
    access = read_access((), (), is_local=False)

    def run(data: bytes) -> bool:
        backend = _Backend(data)
        backend._access = access
        manifest: Any = None
        watch = Watch(Listener(), manifest, 0, lambda: False, whole=False)
        room = memoryview(bytearray(READ_BYTES))
        try:
            body = backend.open(watch, PART, ranged=True)
            check(
                0 <= body.position <= PART.start and body.position < body.end <= ENTRY.size, "not of the file", body.end
            )
            while body.position < body.end and (count := body.read_into(room)):
                check(count <= READ_BYTES, "more than there is room for", count)
            taken = True
            body.close()
        except (OriginError, TryAgain) as error:
            told = error.told if isinstance(error, OriginError) else error.cause
            check(told.isprintable() and len(told) < 300, "words of the remote are told to everybody", told)
            wait_s = error.retry_after_s if isinstance(error, TryAgain) else None
            check(wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S, "a wait beyond reason", wait_s)
            taken = False
        check(backend.asked <= REDIRECTS_MAX + 1, "redirects without an end", backend.asked)
        return taken

    return run


def _url_seeds() -> Iterator[bytes]:
    for text in (
        "http://origin.example/films/",
        "https://cdn.example:8443/a%20b/{path}?Key=é&x=%2F",
        "s3://films/a/b",
        "s3://films/?region=eu-central-1&endpoint=http://127.0.0.1:9000",
        "file:///srv/titles",
        "/srv/titles",
        "//h/x",
        "http://[::1]:80/",
        "http://[fe80::1%25eth0]/",
        "http://user:pw@h/",
        "http://1.2.3/",
        "http://0x7f.1/",
        "http://bücher.example/",
        "HTTP://H:0/",
        "http://h/#x",
        "file://localhost/a%00b",
        "http:h",
        "http://a..b/",
        "s3://u:p@films/x",
        "http://h/{path}{path}",
        "film",
        "http://xn--a/",
    ):
        yield text.encode()


def open_urls(_: Path) -> Run:
    """A text is an origin, or `ConfigError`. An origin is spelled in one way, which is read as itself; what is shown of
    it has no password and no query, and what a file below it is asked for by is one line of ASCII.
    """

    def run(data: bytes) -> bool:
        text = data.decode("utf-8", "surrogateescape")
        urls.shown(text)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        wait_s = parse_retry_after(text, now, text)
        check(wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S, "a wait beyond reason", wait_s)
        _redirect(text)
        try:
            origin = urls.check_origin(text)
        except ConfigError as error:
            check(len(str(error)) < 2500, "an error without an end")  # 200 characters, each as ten at most
            return False
        check(urls.check_origin(origin) == origin, "spelled twice it is another", text, origin)
        if urls.is_http(origin):
            _check_http(origin)
        return True

    return run


def _redirect(text: str) -> None:
    try:
        target = urls.http_url(text)
    except ConfigError:
        return
    check(urls.http_url(target) == target, "a redirect is spelled in two ways", target)


def _check_http(origin: str) -> None:
    name = urls.shown(urls.file_url(origin, ENTRY.path))
    check("@" not in name.split("/")[2] and "=" not in name.partition("?")[2], "it shows what is secret", name)
    backend = WebBackend(origin, OriginSettings())
    try:
        place, before, headers, target = backend._read(backend.url_of(ENTRY.path))
    except OriginRefused:
        return
    asked = f"{before}{target}"
    lines = headers.removesuffix("\r\n").split("\r\n")
    check(all(line.isascii() and line.isprintable() for line in lines), "no headers of a request", headers)
    check(asked.isascii() and asked.isprintable() and " " not in asked, "no line of a request", asked)
    check(0 < place.port <= 65535, "no port", place.port)


def _access_seeds() -> Iterator[bytes]:
    yield b"https://*.cdn.example\n10.1.0.0/16\nweb1.example:8080\ns3://films\n\nhttp://web1.example:8080/"
    yield b"*\n169.254.169.254\nlocalhost\n\nhttp://169.254.169.254/"
    yield b"0.0.0.0/0\n::/0\n[::1]:80\n\nhttp://[::1]/"
    yield b"10.0.0.1/8\n\nhttp://10.2.3.4/"
    yield b"fd00::/8\nhttp://[fd00::1]:80\n\ns3://films/x?endpoint=http://127.0.0.1:9000"
    yield b"\nhttp://127.0.0.1/\n/srv"
    yield b"s3://*\n\ns3://films"


NEVER: Final = ("169.254.169.254", "0.0.0.0", "fe80::1", "255.255.255.255", "::ffff:169.254.169.254")


def open_access(_: Path) -> Run:
    """Lines are a list of what may be read, or `ConfigError`. No list opens what is never meant but by that very
    address; an origin is let through or is `OriginRefused`, and directories stay below those that are named.
    """

    def run(data: bytes) -> bool:
        head, _, tail = data.decode("utf-8", "replace").partition("\n\n")
        allow = [line for line in head.split("\n")[:50] if line]
        try:
            access = read_access(allow, ("/srv/titles",), is_local=False)
        except ConfigError as error:
            check(len(str(error)) < 2500, "an error without an end")  # 200 characters, each as ten at most
            return False
        for address in NEVER:
            if access.permits("http", "some.example", 80, address):
                bare = [line.rpartition("//")[2].strip("[]") for line in allow]
                check(any(_names(line) for line in bare), "an address that is never meant is open", address, allow)
        try:
            origin = urls.check_origin(tail)
            if urls.is_http(origin):
                WebBackend(origin, OriginSettings(access=access))._read(origin)
            elif not urls.is_bucket(origin):
                root = access.root_of(origin)
                check(not root or root == "/srv/titles", "another directory", root)
        except (ConfigError, OriginRefused):
            pass
        return True

    return run


def _names(entry: str) -> bool:
    """Tell whether an entry means one address, or a range of nothing but such as are never meant."""
    return any(letter.isdigit() or letter == ":" for letter in entry) and "*" not in entry and "?" not in entry


CODE: Final = ("p2pfill.origin",)
WORDS: Final = (
    "\r\n",
    "Location: ",
    "Content-Range: bytes ",
    "Content-Length: ",
    "Transfer-Encoding: chunked",
    "HTTP/1.1 ",
    "Content-Encoding: ",
    "Connection: close",
    "Retry-After: ",
)
SCHEMES: Final = ("http://", "https://", "s3://", "file://", "{path}", "@", "[::1]", "/8", "::/0", "localhost", "*.")

TARGETS: Final = (
    Target("answers", open_answers, _answer_seeds, words=WORDS, code=CODE),
    Target("urls", open_urls, _url_seeds, size_max=512, words=SCHEMES, code=CODE),
    Target("access", open_access, _access_seeds, size_max=512, words=SCHEMES, code=CODE),
)
