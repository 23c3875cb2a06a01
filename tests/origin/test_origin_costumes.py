"""Origins as they are: what real servers, proxies and hostile ones answer, and what becomes of it."""

from __future__ import annotations

import gzip
import os
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from origin import servers
from origin.servers import RawServer, Request, chunked, ended_by_close, head, part_of, serve, without_range

from p2pfill.errors import ConfigError
from p2pfill.origin import (
    Listener,
    OriginCancelled,
    OriginObjectChanged,
    OriginRefused,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)

QUICK = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.05, idle_max_s=5, stall_max_s=2)
HASTY = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.02, idle_max_s=5, stall_max_s=0.3, attempts_max=2)
CHUNK = 65536
Start = Callable[..., RawServer]


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def read_all(origin: Any, title: Any, listener: Listener | None = None) -> int:
    """Read and check all chunks in order; return what was received."""
    received = 0
    for k in range(title.manifest.chunk_count):
        chunk = origin.read_chunk(title.manifest, k, listener)
        assert bytes(chunk.data) == title.chunk(k)
        received += chunk.bytes_received
    return received


# ---- no length


@pytest.mark.parametrize("costume", [chunked, ended_by_close], ids=["chunked", "close"])
@pytest.mark.parametrize("size", [1, 20_000, 200_000])
def test_an_answer_may_lack_its_length(start: Start, make_title: Any, costume: Any, size: int) -> None:
    title = make_title({"big": blob(size)})
    server = start(costume(title.stream))
    assert read_all(open_origin(server.url, settings=QUICK), title) == size
    assert {request.headers["accept-encoding"] for request in server.seen} == {"identity"}
    assert len(server.seen) == title.manifest.chunk_count


def test_a_body_that_the_close_cuts_short_is_continued(start: Start, make_title: Any) -> None:
    title = make_title({"big": blob(CHUNK)})

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(title.stream, request)
        connection.sendall(head(status, Connection="close", **headers) + part[:20_000])
        return False

    chunk = open_origin(start(answer).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert (chunk.requests, chunk.bytes_received) == (4, CHUNK)


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        ("RequestTimeout", OriginUnavailable, "status 400 RequestTimeout"),
        ("ExpiredToken", OriginRefused, "ExpiredToken; check the credentials"),
        ("InvalidToken", OriginRefused, "InvalidToken; check the credentials"),
        ("AuthorizationHeaderMalformed", OriginRefused, "check the bucket's region"),
    ],
)
def test_a_store_says_by_its_code_what_a_bad_request_means(
    start: Start, make_title: Any, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], match: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    answered = head(400, Content_Length=len(body), Content_Type="application/xml") + body
    server = start(lambda request, connection: connection.sendall(answered) or True)
    title = make_title({"f": blob(1000)})
    with pytest.raises(error, match=match):
        open_origin(f"s3://films/x?endpoint={server.url}", settings=HASTY).read_chunk(title.manifest, 0)


def test_more_bytes_than_were_published_are_not_read(start: Start, make_title: Any) -> None:
    title = make_title({"f": b"content"})

    def endless(request: Request, connection: socket.socket) -> bool:
        connection.sendall(head(200, Transfer_Encoding="chunked"))
        while True:
            connection.sendall(b"1000\r\n" + title.stream * 585 + b"x\r\n")

    chunk = open_origin(start(endless).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert chunk.bytes_received < 2_000_000


# ---- what cannot be the file


@pytest.mark.parametrize("status", [200, 206])
def test_an_encoding_that_nobody_asked_for_is_refused_and_named(start: Start, make_title: Any, status: int) -> None:
    title = make_title({"text": b"hello world " * 20_000})

    def answer(request: Request, connection: socket.socket) -> bool:
        part, _, headers = part_of(title.stream, request)
        body = gzip.compress(part)
        connection.sendall(head(status, Content_Encoding="gzip", Content_Length=len(body), **headers) + body)
        return True

    server = start(answer)
    with pytest.raises(OriginRefused, match=r"Content-Encoding: gzip.*switch compression off") as caught:
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 1)
    assert caught.value.requests == 1
    assert "text" not in caught.value.cause


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "aws-chunked", "utf-8"])
@pytest.mark.parametrize("ranged", [True, False])
def test_an_encoding_that_is_only_said_of_the_file_as_it_lies_there_is_no_matter(
    start: Start, make_title: Any, encoding: str, ranged: bool
) -> None:
    """Servers say it of archives by their names, and stores of what was uploaded with such a header."""
    title = make_title({"a.tar.gz": blob(200_000)})

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(title.stream, request) if ranged else (title.stream, 200, {})
        connection.sendall(head(status, Content_Encoding=encoding, Content_Length=len(part), **headers) + part)
        return True

    origin = open_origin(start(answer).url, settings=QUICK)
    for chunk in range(title.manifest.chunk_count):
        verify_chunk(origin.url, title.manifest, chunk, origin.read_chunk(title.manifest, chunk).data)
    origin.close()


@pytest.mark.parametrize(
    ("answered", "error", "match"),
    [
        (head(200, Content_Length=9) + b"too small", OriginObjectChanged, "truncated.*9 bytes"),
        (head(200, Content_Length=10**15), OriginObjectChanged, "changed"),
        (head(206, Content_Length=3) + b"abc", OriginRefused, "another range"),
        (head(200, Content_Encoding="gzip") + b"abc", OriginRefused, "Content-Encoding: gzip"),
        (
            head(206, Content_Encoding="gzip", Content_Range="bytes 0-65535/*") + b"abc",
            OriginRefused,
            "Content-Encoding: gzip",
        ),
        (head(206, Content_Range="bytes 65536-131071/*, x", Content_Length=3) + b"abc", OriginRefused, "another range"),
        (head(204), OriginRefused, "status 204"),
        (head(401, Content_Length=0), OriginRefused, "status 401.*access rules"),
        (head(302, Content_Length=0), OriginRefused, "names no place"),
        (head(302, Location="ftp://elsewhere/x"), OriginRefused, "redirect cannot be followed"),
        (head(302, Location="http://user:secret@elsewhere/x"), OriginRefused, "redirect cannot be followed"),
        (head(302, Location="http://[::1/"), OriginRefused, "redirect cannot be followed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", OriginUnavailable, "not HTTP"),
        (b"", OriginUnavailable, "closed the connection without an answer"),
        (head(200)[:-4] + b"\r\nA: " + b"a" * 400_000, OriginUnavailable, "head of its answer is too large"),
        (head(200, **{f"A{n}": n for n in range(200)}), OriginUnavailable, "head of its answer is too large"),
        (head(103) * 20, OriginUnavailable, "only informs"),
    ],
)
def test_what_is_wrong_is_named(
    start: Start, make_title: Any, answered: bytes, error: type[Exception], match: str
) -> None:
    title = make_title({"big": blob(200_000)})
    server = start(lambda request, connection: connection.sendall(answered))
    with pytest.raises(error, match=match) as caught:
        open_origin(server.url, settings=HASTY).read_chunk(title.manifest, 1)
    said = str(caught.value)
    assert f"{server.url}/big" in said
    assert "secret" not in said
    assert ";" in said, "what to do"


# ---- redirects


def test_redirects_are_followed_a_few_times(start: Start, make_title: Any) -> None:
    title = make_title({"a b": blob(200_000)})
    store = start(serve(title.stream))
    hops = 3

    def answer(request: Request, connection: socket.socket) -> bool:
        step = int(request.target[-1]) if "hop" in request.target else 0
        place = f"{store.url}/signed?key=secret" if step == hops else f"/hop{step + 1}"
        connection.sendall(head(302, Location=place, Content_Length=2) + b"no")
        return True

    server = start(answer)
    assert read_all(open_origin(server.url, settings=QUICK), title) == 200_000
    assert {request.target for request in store.seen} == {"/signed?key=secret"}
    assert all("referer" not in request.headers for request in store.seen)
    hops = 9
    with pytest.raises(OriginRefused, match="redirects more than 5 times"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)


def test_a_redirect_must_not_lead_from_https_to_http(
    start: Start, make_title: Any, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    plain = start(serve(title.stream))
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    server = start(lambda request, connection: connection.sendall(head(302, Location=f"{plain.url}/f")), tls.context())
    with pytest.raises(OriginRefused, match="from https to http"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert not plain.seen


# ---- servers that differ behind one name


def test_a_chunk_of_servers_that_differ_is_read_once_more_each_part_of_one(start: Start, make_title: Any) -> None:
    """One of two servers has an old file, and the first answer breaks off in it."""
    title = make_title({"big": blob(CHUNK)})
    count = 0

    def answer(request: Request, connection: socket.socket) -> bool:
        nonlocal count
        count += 1
        part, status, headers = part_of(blob(CHUNK, 2) if count == 1 else title.stream, request)
        cut = part[: CHUNK // 2] if count in (1, 3) else part
        connection.sendall(head(status, Content_Length=len(part), ETag=f'"{count}"', **headers) + cut)
        return cut is part

    origin = open_origin(start(answer).url, settings=QUICK)
    mixed = origin.read_chunk(title.manifest, 0)
    assert mixed.is_pieced
    with pytest.raises(OriginObjectChanged):
        verify_chunk(origin.url, title.manifest, 0, mixed.data)
    whole = origin.read_chunk(title.manifest, 0, whole=True)
    assert bytes(whole.data) == title.stream
    assert not whole.is_pieced
    assert whole.bytes_received == CHUNK + CHUNK // 2, "what broke off was begun anew"


def test_what_follows_an_answer_is_not_taken_for_the_next_one(start: Start, make_title: Any) -> None:
    title = make_title({"big": blob(2 * CHUNK)})
    stray = head(404, Content_Length=0)

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(title.stream, request)
        connection.sendall(head(status, Content_Length=len(part), **headers) + part + stray)
        return True

    origin = open_origin(start(answer).url, settings=QUICK)
    for chunk in range(2):
        assert bytes(origin.read_chunk(title.manifest, chunk).data) == title.stream[chunk * CHUNK :][:CHUNK]


# ---- silence, drips, and floods


def drip(piece: bytes, pause_s: float, first: bytes = b"") -> servers.Answer:
    def answer(request: Request, connection: socket.socket) -> bool:
        connection.sendall(first)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return answer


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (drip(b"X-More: of it\r\n", 0.05, b"HTTP/1.1 200 OK\r\n"), "head of its answer is not complete"),
        (drip(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02), "only informs"),
        (drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02), "only informs"),
        (drip(b"x", 0.05, head(200, Content_Length=CHUNK)), "sends less than 1024 bytes in"),
        (drip(b"1\r\nx\r\n", 0.05, head(200, Transfer_Encoding="chunked")), "sends less than 1024 bytes in"),
        (drip(b"1;" + b"y" * 2000 + b"\r\nx\r\n", 0.02, head(200, Transfer_Encoding="chunked")), "sends less"),
        (drip(b"1;" + b"y" * 9000 + b"\r\nx\r\n", 0.02, head(200, Transfer_Encoding="chunked")), "ended early"),
        (drip(b"", 1.0), "has sent nothing for"),
        (drip(b"", 1.0, head(200, Content_Length=CHUNK)), "has sent nothing for"),
    ],
)
def test_a_server_that_drips_is_as_good_as_silent(
    start: Start, make_title: Any, answer: servers.Answer, match: str
) -> None:
    title = make_title({"big": blob(CHUNK)})
    began = time.monotonic()
    with pytest.raises(OriginUnavailable, match=match):
        open_origin(start(answer).url, settings=HASTY).read_chunk(title.manifest, 0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("first", [b"", head(200, Content_Length=CHUNK) + b"abc"], ids=["head", "body"])
def test_a_cancelled_read_does_not_wait_for_a_byte(start: Start, make_title: Any, first: bytes) -> None:
    title = make_title({"big": blob(CHUNK)})
    listener, cancelled = Listener(), threading.Event()
    listener.is_cancelled = cancelled.is_set  # type: ignore[method-assign]
    origin = open_origin(start(drip(b"", 30, first)).url)
    threading.Timer(0.3, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(OriginCancelled):
        origin.read_chunk(title.manifest, 0, listener)
    assert time.monotonic() - began < 4, "silence is given up after 10 s"


class Notes(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.troubles: list[tuple[float, str]] = []
        self.remarks: list[str] = []
        self.passed_by: dict[int, bytes] = {}
        self.began = time.monotonic()

    def trouble(self, reason: str, cause: str) -> None:
        self.troubles.append((time.monotonic() - self.began, reason))

    def no_range(self, text: str) -> None:
        self.remarks.append(text)

    def wants(self, chunk: int) -> bool:
        return chunk not in self.passed_by

    def passed(self, chunk: int, data: memoryview) -> bool:
        self.passed_by[chunk] = bytes(data)
        return True


def test_silence_is_said_before_it_is_given_up(start: Start, make_title: Any) -> None:
    title, notes = make_title({"big": blob(CHUNK)}), Notes()
    settings = OriginSettings(stall_max_s=4, attempts_max=1)
    with pytest.raises(OriginUnavailable):
        open_origin(start(drip(b"", 30)).url, settings=settings).read_chunk(title.manifest, 0, notes)
    said_s, said = notes.troubles[0]
    assert "has sent nothing for 2 s" in said
    assert said_s < 4


# ---- proxies


@pytest.fixture
def proxy(start: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RawServer]:
    """Return `proxy(answer, variable) -> RawServer`, which the environment names then."""

    def begin(answer: servers.Answer, variable: str = "http_proxy") -> RawServer:
        server = start(answer)
        monkeypatch.setenv(variable, f"http://anna:secret@127.0.0.1:{server.port}")
        return server

    return begin


def tunnel(server: RawServer, more: bytes = b"") -> servers.Answer:
    """Return a proxy that makes a tunnel to `server`, and says `more` before what comes out of it."""

    def answer(request: Request, connection: socket.socket) -> bool:
        with socket.create_connection(("127.0.0.1", server.port)) as beyond:
            connection.sendall(head(200) + more)
            back = threading.Thread(target=pump, args=(beyond, connection))
            back.start()
            pump(connection, beyond)
            back.join()
        return False

    return answer


def pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_proxy_of_the_environment_is_used(start: Start, make_title: Any, proxy: Any, monkeypatch: Any) -> None:
    title = make_title({"big": blob(200_000)})
    server = proxy(serve(title.stream))
    origin = open_origin("http://origin.invalid/film", settings=QUICK)
    assert read_all(origin, title) == 200_000
    assert {request.target for request in server.seen} == {"http://origin.invalid/film/big"}
    assert {request.headers["host"] for request in server.seen} == {"origin.invalid"}
    assert server.seen[0].headers["proxy-authorization"] == "Basic YW5uYTpzZWNyZXQ="
    direct = start(serve(title.stream))
    for excluded in ("127.0.0.1", "elsewhere,127.0.0.0/8", "*"):
        monkeypatch.setenv("no_proxy", excluded)
        read_all(open_origin(direct.url, settings=QUICK), title)
    assert len(direct.seen) == 3 * title.manifest.chunk_count


def test_a_proxy_that_does_not_answer_is_named(make_title: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    title = make_title({"f": b"content"})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for variable, url in (("http_proxy", "http://origin.invalid/x"), ("https_proxy", "https://origin.invalid/x")):
        monkeypatch.setenv(variable, f"http://anna:secret@127.0.0.1:{port}")
        notes = Notes()
        named = rf"the proxy 127\.0\.0\.1:{port} \(of {variable}\).*refused"
        with pytest.raises(OriginUnavailable, match=named) as one:
            open_origin(url, settings=QUICK).read_chunk(title.manifest, 0, notes)
        assert "secret" not in str(one.value)
        assert "proxy" in notes.troubles[0][1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_silent_is_named(make_title: Any, proxy: Any, scheme: str) -> None:
    title, notes = make_title({"f": b"content"}), Notes()
    proxy(drip(b"", 30), f"{scheme}_proxy")
    settings = OriginSettings(stall_max_s=2.5, attempts_max=1)
    named = rf"sent nothing for 2\.5 s through the proxy 127\.0\.0\.1:\d+ \(of {scheme}_proxy\)"
    with pytest.raises(OriginUnavailable, match=named):
        open_origin(f"{scheme}://origin.invalid/film", settings=settings).read_chunk(title.manifest, 0, notes)
    assert "proxy" in notes.troubles[0][1]


@pytest.mark.parametrize(
    ("status", "error", "match"),
    [
        (407, OriginRefused, r"the proxy 127\.0\.0\.1:\d+ \(of http_proxy\) wants to know who asks"),
        (502, OriginUnavailable, r"status 502 through the proxy 127\.0\.0\.1:\d+ \(of http_proxy\), which the"),
        (503, OriginUnavailable, r"status 503 through the proxy"),
        (403, OriginRefused, r"status 403 through the proxy"),
    ],
)
def test_what_a_proxy_answers_names_it(
    make_title: Any, proxy: Any, status: int, error: type[Exception], match: str
) -> None:
    title = make_title({"f": b"content"})
    proxy(lambda request, connection: connection.sendall(head(status, Content_Length=0)))
    with pytest.raises(error, match=match):
        open_origin("http://origin.invalid/film", settings=HASTY).read_chunk(title.manifest, 0)


@pytest.mark.parametrize(
    ("status", "error"),
    [(407, OriginRefused), (403, OriginRefused), (502, OriginUnavailable), (503, OriginUnavailable)],
)
def test_a_proxy_that_makes_no_tunnel_is_named(
    make_title: Any, proxy: Any, status: int, error: type[Exception]
) -> None:
    title = make_title({"f": b"content"})
    server = proxy(lambda request, connection: connection.sendall(head(status, Content_Length=0)), "https_proxy")
    with pytest.raises(error, match=rf"the proxy 127\.0\.0\.1:\d+ \(of https_proxy\) refuses to connect.*{status}"):
        open_origin("https://origin.invalid/film", settings=HASTY).read_chunk(title.manifest, 0)
    assert server.seen[0].method == "CONNECT"


def test_a_tunnel_through_a_proxy(start: Start, make_title: Any, proxy: Any, tls: Any, monkeypatch: Any) -> None:
    title = make_title({"big": blob(200_000)})
    server = start(serve(title.stream), tls.context())

    through = proxy(tunnel(server), "https_proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    origin = open_origin(server.url, settings=QUICK)
    assert read_all(origin, title) == 200_000
    origin.close()
    assert {request.target for request in through.seen} == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("origin_scheme", ["http", "https"])
def test_a_proxy_under_tls(
    start: Start, make_title: Any, tls: Any, monkeypatch: pytest.MonkeyPatch, origin_scheme: str
) -> None:
    title = make_title({"big": blob(3_000_000), "small": blob(100)})
    files = {"big": blob(3_000_000), "small": blob(100)}

    def file_of(request: Request, connection: socket.socket) -> Any:
        return serve(files[request.target.rpartition("/")[2]])(request, connection)

    server = start(file_of, tls.context() if origin_scheme == "https" else None)

    def proxied(request: Request, connection: socket.socket) -> Any:
        if request.method != "CONNECT":
            return file_of(request, connection)
        return tunnel(server)(request, connection)

    through = start(proxied, tls.context())
    monkeypatch.setenv(f"{origin_scheme}_proxy", f"https://anna:secret@127.0.0.1:{through.port}")
    with pytest.raises(OriginRefused, match=rf"certificate of the proxy 127\.0\.0\.1:{through.port} .*SSL_CERT_FILE"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    origin = open_origin(server.url, settings=QUICK)
    assert read_all(origin, title) == 3_000_100
    origin.close()
    assert through.seen[0].headers["proxy-authorization"] == "Basic YW5uYTpzZWNyZXQ="
    # Connections through it serve again.
    assert len(through.seen) <= (QUICK.concurrency if origin_scheme == "https" else title.manifest.chunk_count + 1)
    assert {request.method for request in through.seen} == {"CONNECT" if origin_scheme == "https" else "GET"}


def test_an_origin_through_a_proxy_under_tls_has_a_certificate_of_its_own(
    start: Start, make_title: Any, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    server = start(serve(title.stream), tls.context("elsewhere.example"))

    through = start(tunnel(server), tls.context())
    monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{through.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    with pytest.raises(OriginRefused, match=r"certificate of 127\.0\.0\.1 does not verify.*made"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)


def test_a_proxy_under_tls_that_is_silent_is_named(make_title: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    title = make_title({"f": b"content"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("http_proxy", f"https://127.0.0.1:{port}")
        hasty = OriginSettings(connect_max_s=0.3, attempts_max=1)
        with pytest.raises(OriginUnavailable, match=rf"the proxy 127\.0\.0\.1:{port} .*TLS handshake"):
            open_origin("http://origin.invalid/film", settings=hasty).read_chunk(title.manifest, 0)


def test_what_a_proxy_says_before_tls_is_not_of_the_origin(
    start: Start, make_title: Any, proxy: Any, tls: Any, monkeypatch: Any
) -> None:
    title = make_title({"big": blob(200_000)})
    server = start(serve(title.stream), tls.context())

    proxy(tunnel(server, head(404, Content_Length=0)), "https_proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    origin = open_origin(server.url, settings=QUICK)
    assert read_all(origin, title) == 200_000
    origin.close()


@pytest.mark.parametrize("cancels", [True, False])
def test_trailers_without_an_end_hold_no_thread(start: Start, make_title: Any, cancels: bool) -> None:
    title = make_title({"big": blob(CHUNK)})

    def answer(request: Request, connection: socket.socket) -> bool:
        connection.sendall(head(200, Transfer_Encoding="chunked") + b"3\r\nabc\r\n0\r\n")
        while not over.wait(0.01):
            connection.sendall(b"X: " + b"y" * 60_000 + b"\r\n")
        return False

    over, cancelled, listener = threading.Event(), threading.Event(), Listener()
    listener.is_cancelled = cancelled.is_set  # type: ignore[method-assign]
    origin = open_origin(start(answer).url, settings=QUICK)
    if cancels:
        threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    try:
        with pytest.raises(OriginCancelled if cancels else OriginUnavailable):
            origin.read_chunk(title.manifest, 0, listener)
    finally:
        over.set()
    assert time.monotonic() - began < (4 if cancels else 60)


def test_a_pipe_in_a_directory_is_no_file(make_title: Any) -> None:
    title = make_title({"big": blob(CHUNK)})
    (title.root / "big").unlink()
    os.mkfifo(title.root / "big")
    with pytest.raises(OriginRefused, match="no plain file"):
        open_origin(str(title.root), settings=QUICK).read_chunk(title.manifest, 0)


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "http://", "http://h:99999", "http://[::1"])
def test_an_environment_that_names_no_proxy_is_said(make_title: Any, monkeypatch: Any, value: str) -> None:
    monkeypatch.setenv("http_proxy", value)
    title = make_title({"f": b"content"})
    with pytest.raises(OriginUnavailable, match="http_proxy in the environment names no HTTP proxy"):
        open_origin("http://origin.invalid/film", settings=HASTY).read_chunk(title.manifest, 0)


# ---- certificates


class Tls:
    """A CA of one's own."""

    def __init__(self, place: Path) -> None:
        self._ca = trustme.CA()
        self.ca_file = place / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def context(self, *names: str, **more: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("127.0.0.1",)), **more).configure_cert(context)
        return context


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


def test_a_private_ca_is_trusted_where_the_environment_names_it(
    start: Start, make_title: Any, tls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"big": blob(200_000)})
    server = start(serve(title.stream), tls.context())
    with pytest.raises(OriginRefused, match=r"certificate of 127\.0\.0\.1 does not verify.*SSL_CERT_FILE") as caught:
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert caught.value.requests == 1, "it does not change by being asked again"
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    assert read_all(open_origin(server.url, settings=QUICK), title) == 200_000
    monkeypatch.delenv("SSL_CERT_FILE")
    hashed = tmp_path / "certs"
    hashed.mkdir()
    (hashed / "ca.pem").write_bytes(tls.ca_file.read_bytes())
    openssl_rehash(hashed)
    monkeypatch.setenv("SSL_CERT_DIR", str(hashed))
    assert read_all(open_origin(server.url, settings=QUICK), title) == 200_000


def openssl_rehash(directory: Path) -> None:
    made = subprocess.run(["openssl", "rehash", str(directory)], capture_output=True)
    if made.returncode:
        pytest.skip("openssl is not installed")


def test_a_certificate_for_another_name_or_of_the_past_is_named(
    start: Start, make_title: Any, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"f": b"content"})
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    other = start(serve(title.stream), tls.context("other.example"))
    with pytest.raises(OriginRefused, match=r"does not verify.*by a name for which the certificate was made"):
        open_origin(other.url, settings=QUICK).read_chunk(title.manifest, 0)
    past = start(serve(title.stream), tls.context("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    with pytest.raises(OriginRefused, match=r"expired; renew it"):
        open_origin(past.url, settings=QUICK).read_chunk(title.manifest, 0)
    plain = start(serve(title.stream))
    with pytest.raises(OriginUnavailable, match="TLS handshake"):
        open_origin(plain.url.replace("http:", "https:"), settings=HASTY).read_chunk(title.manifest, 0)


def test_certificates_that_cannot_be_read_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (tmp_path / "none.pem", Path(__file__)):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ConfigError, match=r"SSL_CERT_FILE.*cannot be read"):
            open_origin("https://origin.invalid/")


# ---- signed URLs


def test_a_template_with_a_secret_query(start: Start, make_title: Any) -> None:
    title = make_title({"a b/ü?.bin": blob(200_000)})
    server = start(serve(title.stream))
    origin = open_origin(server.url + "/dir/{path}?sig=se/cr+et%2F", settings=QUICK)
    assert read_all(origin, title) == 200_000
    assert {request.target for request in server.seen} == {"/dir/a%20b/%C3%BC%3F.bin?sig=se/cr+et%2F"}
    server.stop()
    with pytest.raises(OriginUnavailable) as caught:
        open_origin(server.url + "/dir/{path}?sig=se/cr+et", settings=HASTY).read_chunk(title.manifest, 0)
    assert "se/cr" not in origin.url + str(caught.value)
    assert f"{server.url}/dir/a%20b/%C3%BC%3F.bin?…" in str(caught.value)


# ---- no Range


def test_a_file_of_an_origin_without_range_is_read_once_for_all_its_chunks(start: Start, make_title: Any) -> None:
    title, notes = make_title({"big": blob(40 * CHUNK + 5)}), Notes()
    server = start(without_range(title.stream))
    origin = open_origin(server.url, settings=QUICK)
    got = origin.read_chunk(title.manifest, 39, notes)
    assert bytes(got.data) == title.chunk(39)
    assert notes.passed_by == {k: title.chunk(k) for k in range(39)}
    assert got.bytes_received <= CHUNK + 5 + 262144, "what came on the way is no waste"
    assert bytes(origin.read_chunk(title.manifest, 40, notes).data) == title.chunk(40)
    assert len(server.seen) == 1
    (remark,) = notes.remarks
    assert remark.startswith("has no Range: ")


def test_many_threads_go_through_a_file_without_range_one_after_the_other(start: Start, make_title: Any) -> None:
    title, notes = make_title({"a": blob(3 * CHUNK), "big": blob(60 * CHUNK), "z": blob(7)}), Notes()
    files = {f"/{path}": (title.root / path).read_bytes() for path in ("a", "big", "z")}
    server = start(lambda request, connection: without_range(files[request.target])(request, connection))
    origin = open_origin(server.url, settings=QUICK)
    chunks = list(range(title.manifest.chunk_count))
    random.Random(1).shuffle(chunks)
    received, lock = 0, threading.Lock()

    def work() -> None:
        nonlocal received
        while True:
            with lock:
                if not chunks:
                    return
                k = chunks.pop()
            if not notes.wants(k):
                continue
            got = origin.read_chunk(title.manifest, k, notes)
            assert bytes(got.data) == title.chunk(k)
            with lock:
                notes.passed_by[k] = bytes(got.data)
                received += got.bytes_received

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes.passed_by == {k: title.chunk(k) for k in range(title.manifest.chunk_count)}
    assert len(notes.remarks) == 1


@pytest.mark.parametrize("costume", [chunked, without_range])
def test_whole_small_files_need_no_range(start: Start, make_title: Any, costume: Any) -> None:
    title, notes = make_title({f"{i}": blob(1000 + i, i) for i in range(30)}), Notes()
    files = {f"/{i}": blob(1000 + i, i) for i in range(30)}
    server = start(lambda request, connection: costume(files[request.target])(request, connection))
    assert read_all(open_origin(server.url, settings=QUICK), title, notes) == len(title.stream)
    assert not notes.remarks
    assert all("range" not in request.headers for request in server.seen)
