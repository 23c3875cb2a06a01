"""Connections to origins below the answers: kept ones that end, heads in pieces and in floods, and bodies that wait."""

from __future__ import annotations

import http.client
import io
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure import check_at_most
from origin.servers import RawServer, Request, head, part_of, serve

from p2pfill.origin import Listener, OriginSettings, OriginUnavailable, open_origin
from p2pfill.origin import web as web_module
from p2pfill.origin.watch import Watch
from p2pfill.origin.wire import Exchange, Wire

QUICK = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.02, idle_max_s=5, stall_max_s=0.5, attempts_max=2)
CHUNK = 65536
Start = Callable[..., RawServer]


class Notes(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def trouble(self, reason: str, cause: str) -> None:
        self.troubles.append(reason)


def blob(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def on_second(data: bytes, then: Callable[[socket.socket], object]) -> Callable[[Request, socket.socket], bool]:
    """Return a server that answers the first request of a connection as it should, and does `then` with the second."""
    asked: dict[int, int] = {}

    def answer(request: Request, connection: socket.socket) -> bool:
        asked[id(connection)] = asked.get(id(connection), 0) + 1
        if asked[id(connection)] == 2:
            then(connection)
            return False
        part, status, headers = part_of(data, request)
        connection.sendall(head(status, Content_Length=len(part), **headers) + part)
        return True

    return answer


# ---- connections that are kept


def test_a_kept_connection_that_ends_as_it_is_used_is_no_failure(start: Start, make_title: Any) -> None:
    title, notes = make_title({"big": blob(3 * CHUNK)}), Notes()
    server = start(on_second(title.stream, lambda connection: None))
    origin = open_origin(server.url, settings=OriginSettings(backoff_base_s=60.0, backoff_max_s=60.0))
    for k in range(3):
        chunk = origin.read_chunk(title.manifest, k, notes)
        assert bytes(chunk.data) == title.chunk(k)
        assert (chunk.requests, chunk.failed) == (1, 0)
    assert len(server.seen) == 5, "two were asked for once more, of a new connection and without a pause"
    assert not notes.troubles


def test_a_new_connection_that_ends_is_a_failure(start: Start, make_title: Any) -> None:
    title = make_title({"big": blob(CHUNK)})
    server = start(lambda request, connection: False)
    with pytest.raises(OriginUnavailable, match="closed the connection without an answer") as caught:
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert caught.value.requests == caught.value.failed == len(server.seen) == QUICK.attempts_max


@pytest.mark.parametrize(
    "then", [lambda connection: connection.sendall(b"HTTP/1.1 20"), lambda connection: time.sleep(1.0)],
    ids=["half a head", "silence"],
)  # fmt: skip
def test_a_kept_connection_that_says_half_or_nothing_is_a_failure(
    start: Start, make_title: Any, then: Callable[[socket.socket], object]
) -> None:
    title, notes = make_title({"big": blob(2 * CHUNK)}), Notes()
    origin = open_origin(start(on_second(title.stream, then)).url, settings=QUICK)
    origin.read_chunk(title.manifest, 0)
    chunk = origin.read_chunk(title.manifest, 1, notes)
    assert bytes(chunk.data) == title.chunk(1)
    assert (chunk.requests, chunk.failed) == (2, 1)
    assert len(notes.troubles) == 1


def test_what_comes_while_nothing_is_asked_for_ends_the_connection(start: Start, make_title: Any) -> None:
    title, said = make_title({"big": blob(2 * CHUNK)}), threading.Event()
    honest, connections = serve(title.stream), set()

    def answer(request: Request, connection: socket.socket) -> bool:
        connections.add(connection)
        honest(request, connection)
        if len(connections) == 1:
            connection.sendall(head(206, Content_Length=CHUNK, Content_Range=f"bytes 65536-131071/{2 * CHUNK}"))
            connection.sendall(bytes(CHUNK))
            said.set()
        return True

    origin = open_origin(start(answer).url, settings=QUICK)
    assert bytes(origin.read_chunk(title.manifest, 0).data) == title.chunk(0)
    assert said.wait(10)
    chunk = origin.read_chunk(title.manifest, 1)
    assert bytes(chunk.data) == title.chunk(1), "the answer that nobody asked for is not taken for that to the request"
    assert (chunk.failed, len(connections)) == (0, 2)


# ---- heads


def test_a_head_may_come_a_byte_at_a_time(start: Start, make_title: Any) -> None:
    title = make_title({"big": blob(CHUNK)})

    def answer(request: Request, connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(200, Content_Length=CHUNK):
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        connection.sendall(title.stream)
        return True

    chunk = open_origin(start(answer).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert chunk.failed == 0


@pytest.mark.parametrize(
    "flood", [b"X-More: of it\r\n" * 1000, b"x" * 16_000, b"\r\n " * 5000], ids=["lines", "one line", "folded"]
)
def test_a_head_without_an_end_is_left_off_soon(start: Start, make_title: Any, flood: bytes) -> None:
    title, sent = make_title({"big": blob(CHUNK)}), []

    def answer(request: Request, connection: socket.socket) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nA: b")
        sent.append(0)
        while True:
            connection.sendall(flood)
            sent[-1] += len(flood)

    with pytest.raises(OriginUnavailable, match="head of its answer is too large"):
        open_origin(start(answer).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert len(sent) == QUICK.attempts_max
    assert max(sent) < 8 * 1024 * 1024, "what buffers of the kernel hold, and no more"


HEADERS = {"host", "user-agent", "accept", "accept-encoding"}


def test_a_path_adds_no_headers_and_no_request(start: Start, make_title: Any) -> None:
    title = make_title({"a HTTP/1.1%0d%0aX-Admin: yes?b#c": blob(100)})
    server = start(serve(title.stream))
    open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    (request,) = server.seen
    assert set(request.headers) == HEADERS
    assert request.target == "/a%20HTTP/1.1%250d%250aX-Admin%3A%20yes%3Fb%23c"


@pytest.mark.parametrize(
    ("end", "target"),
    [
        ("%0d%0a", "/there%0d%0aX-Admin:%20yes"),
        ("\r", "/thereX-Admin:%20yes"),  # which readers of URLs leave out
        (" HTTP/1.1\r", "/there%20HTTP/1.1X-Admin:%20yes"),
    ],
)
def test_a_redirect_adds_no_headers_and_no_request(start: Start, make_title: Any, end: str, target: str) -> None:
    title = make_title({"big": blob(100)})
    honest = serve(title.stream)

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.target != "/big":
            return bool(honest(request, connection))
        connection.sendall(head(302, Location=f"/there{end}X-Admin: yes", Content_Length=0))
        return True

    server = start(answer)
    open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert all(set(request.headers) == HEADERS for request in server.seen)
    assert [request.target for request in server.seen] == ["/big", target]


class _Raw(io.RawIOBase):
    """Gives what it has, so much at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        piece = self._data.read(min(self._step, len(buffer)))
        buffer[: len(piece)] = piece
        return len(piece)


class _Socket:
    def __init__(self, data: bytes, step: int) -> None:
        self.reader = io.BufferedReader(_Raw(data, step), CHUNK)

    def makefile(self, mode: str) -> io.BufferedReader:
        return self.reader


def _read_head(data: bytes, step: int) -> object:
    sock: Any = _Socket(data, step)
    response = web_module._Response(sock, method="GET")
    try:
        response.begin()
    except (http.client.HTTPException, ValueError) as error:
        return type(error)
    rest = b"" if response.isclosed() else sock.reader.read()
    return response.status, response.fields, response.length, response.will_close, rest


LINES = st.sampled_from([
    b"HTTP/1.1 200 OK", b"HTTP/1.0 206", b"", b"\r", b" folded", b"Content-Length: 7", b"Connection: close", b"A:b",
    b"Transfer-Encoding: chunked", b"no header", b"\xff\x00: \x80",
])  # fmt: skip


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\r\n", b"\n", b"\r", b""])), max_size=8), st.booleans())
def test_a_head_is_read_alike_however_it_comes(lines: list[tuple[bytes, bytes]], is_good: bool) -> None:
    data = b"HTTP/1.1 200 OK\r\n" * is_good + b"".join(itertools.chain(*lines))
    assert _read_head(data, len(data) + 1) == _read_head(data, 1) == _read_head(data, 9)


@pytest.mark.parametrize("count", [100, 127, 128, 129, 130, 200])
def test_a_head_has_so_many_lines_at_most_however_it_comes(count: int) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * count + b"\r\n"
    assert _read_head(data, len(data)) == _read_head(data, 1)


# ---- bodies


def test_the_end_of_what_is_wanted_is_not_waited_for_when_it_is_there(make_title: Any) -> None:
    """A call that takes what is there of it, and then waits for as much as a thread is woken for, waits in vain."""
    watch = Watch(Listener(), make_title({"big": blob(CHUNK)}).manifest, 0, lambda: False, whole=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire("127.0.0.1", listener.getsockname()[1], "whom", 4.0)
        far, _ = listener.accept()
    wire.exchange = Exchange(watch, "a file", "", QUICK)
    wire.exchange.begin_body()
    view = memoryview(bytearray(30_000))

    def elapsed(number: int) -> float:
        far.sendall(bytes(20_000))
        rest = threading.Timer(0.02, far.sendall, (bytes(10_000),))
        rest.start()
        began, done = time.monotonic(), 0
        while done < len(view):
            done += wire.receive_body(view[done:])
        rest.join()
        return time.monotonic() - began

    with far:
        check_at_most(0.07, elapsed)
    wire.close()


def test_a_body_in_crumbs_wakes_its_reader_seldom(
    start: Start, make_title: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_title({"big": blob(4 * CHUNK)}, chunk_size=4 * CHUNK)
    crumb = 1000

    def answer(request: Request, connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head(200, Content_Length=len(title.stream)))
        for at in range(0, len(title.stream), crumb):
            connection.sendall(title.stream[at : at + crumb])
            time.sleep(0.0005)
        return True

    calls: list[int] = []
    really = Wire.receive_body

    def receive_body(self: Wire, view: memoryview) -> int:
        calls.append(really(self, view))
        return calls[-1]

    monkeypatch.setattr(Wire, "receive_body", receive_body)
    server = start(answer)

    def wakings(number: int) -> float:
        calls.clear()
        assert bytes(open_origin(server.url).read_chunk(title.manifest, 0).data) == title.stream
        return len(calls)

    # A quarter of the buffer that the kernel begins with, or a tenth of a second's worth.
    check_at_most(20, wakings)
