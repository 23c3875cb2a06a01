"""Origins that break off, overload, lie or are not there, and directory origins. No nginx needed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from p2pfill.errors import ConfigError
from p2pfill.origin import (
    OriginCancelled,
    OriginError,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)
from p2pfill.origin.retry_after import parse_retry_after

QUICK = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.05, idle_max_s=5, stall_max_s=2)
Make = Callable[[dict[str, bytes]], Any]
Start = Callable[..., Any]


@dataclass
class Answer:
    """How the scripted server answers one GET: `body` bytes are sent of `length` announced ones."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    delay_s: float = 0.0


Script = Callable[[str, tuple[int, int] | None], Answer]


class ScriptedServer:
    """An HTTP server that answers as the test says; `seen` lists (method, path, range as start and stop)."""

    def __init__(self, script: Script) -> None:
        self.seen: list[tuple[str, str, tuple[int, int] | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

            def do_GET(self) -> None:
                first, _, last = self.headers.get("range", "").removeprefix("bytes=").partition("-")
                wanted = (int(first), int(last) + 1) if last else None
                outer.seen.append((self.command, self.path, wanted))
                answer = script(self.path, wanted)
                time.sleep(answer.delay_s)
                length = len(answer.body) if answer.length is None else answer.length
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)
                    self.close_connection = len(answer.body) != length

            do_HEAD = do_GET

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], ScriptedServer]]:
    """Return `start(script) -> ScriptedServer`; all are stopped at the end of the test."""
    running: list[ScriptedServer] = []

    def start(script: Script) -> ScriptedServer:
        running.append(ScriptedServer(script))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def ranged(data: bytes, wanted: tuple[int, int] | None, **more: Any) -> Answer:
    if wanted is None:
        return Answer(body=data, **more)
    start, stop = wanted[0], min(wanted[1], len(data))
    headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} | more.pop("headers", {})
    return Answer(206, headers, data[start:stop], **more)


def test_dropped_half_way_continues_where_it_was(scripted: Start, make_title: Make) -> None:
    title = make_title({"big": blob(200_000)})

    def script(path: str, wanted: tuple[int, int] | None) -> Answer:
        answer = ranged(title.stream, wanted)
        if len(answer.body) > 20_000:
            answer.length, answer.body = len(answer.body), answer.body[:20_000]
        return answer

    server = scripted(script)
    chunk = open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 1)
    assert bytes(chunk.data) == title.chunk(1)
    assert chunk.bytes_received == 65536, "nothing was fetched twice"
    assert chunk.requests == 4
    assert [seen[2][0] for seen in server.seen] == [65536, 85536, 105536, 125536]


def test_always_dropping_gives_up(scripted: Start, make_title: Make) -> None:
    title = make_title({"big": blob(200_000)})
    server = scripted(lambda path, wanted: Answer(206, {"Content-Range": "bytes 0-65535/200000"}, b"", 65536))
    with pytest.raises(OriginUnavailable, match="gave up after 5 requests with 0 of 65536 bytes"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert len(server.seen) == 5


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(scripted: Start, make_title: Make, status: int) -> None:
    title = make_title({f"f{i}": blob(100, i) for i in range(10)})
    begin = time.monotonic()
    bad = Answer(status, {"Retry-After": "1"})
    server = scripted(
        lambda path, wanted: (
            bad if time.monotonic() < begin + 0.9 else Answer(body=(title.root / path[1:]).read_bytes())
        )
    )
    chunk = open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert time.monotonic() - begin >= 1
    assert {seen[0] for seen in server.seen} == {"GET"}, "the header of the answer itself is read"
    assert chunk.requests == len(server.seen) <= 8 + 10, "all jobs hold back"


def test_overload_without_retry_after_backs_off(scripted: Start, make_title: Make) -> None:
    title = make_title({"f": b"content"})
    answers = iter([Answer(503), Answer(503), Answer(503), Answer(503), Answer(body=b"content")])
    chunk = open_origin(scripted(lambda path, wanted: next(answers)).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert chunk.data == b"content"


def test_entity_tags_that_differ_between_parts_do_not_matter(scripted: Start, make_title: Make) -> None:
    """The servers behind one name have each its own; the digests decide what is right."""
    title = make_title({"big": blob(65536)})
    tags = iter("abcdef")

    def script(path: str, wanted: tuple[int, int] | None) -> Answer:
        answer = ranged(title.stream, wanted, headers={"ETag": f'"{next(tags)}"'})
        answer.length, answer.body = len(answer.body), answer.body[:20_000]
        return answer

    chunk = open_origin(scripted(script).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert chunk.is_pieced
    assert chunk.bytes_received == 65536


@pytest.mark.parametrize(
    "range_said",
    ["0-65535/200000", "65536-99/200000", "a-b/c", "131072-196607/200000", "65536-131071/200001"],
)
def test_nonsense_ranges_are_errors(scripted: Start, make_title: Make, range_said: str) -> None:
    title = make_title({"big": blob(200_000)})
    server = scripted(lambda path, wanted: Answer(206, {"Content-Range": f"bytes {range_said}"}, b"x" * 65536))
    with pytest.raises(OriginError, match="big"):
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 1)


def test_body_longer_than_announced_range_is_cut(scripted: Start, make_title: Make) -> None:
    title = make_title({"big": blob(200_000)})
    server = scripted(
        lambda path, wanted: Answer(206, {"Content-Range": "bytes 65536-131071/200000"}, title.stream[65536:] * 50)
    )
    chunk = open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 1)
    assert bytes(chunk.data) == title.chunk(1)
    assert chunk.bytes_received < 3_000_000


def test_stalled_origin_is_given_up(scripted: Start, make_title: Make) -> None:
    title = make_title({"f": b"content"})
    stuck = OriginSettings(stall_max_s=0.1, attempts_max=2, backoff_base_s=0.01)
    server = scripted(lambda path, wanted: Answer(body=b"content", delay_s=0.5))
    with pytest.raises(OriginUnavailable, match="gave up after 2"):
        open_origin(server.url, settings=stuck).read_chunk(title.manifest, 0)


def test_many_threads_and_bounded_concurrency(scripted: Start, make_title: Make) -> None:
    title = make_title({f"d/{i:03}": blob(1000, i) for i in range(200)})
    lock = threading.Lock()
    now = peak = 0

    def script(path: str, wanted: tuple[int, int] | None) -> Answer:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return ranged((title.root / path[1:]).read_bytes(), wanted)

    chunk = open_origin(scripted(script).url, settings=QUICK).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.chunk(0)
    assert 4 <= peak <= QUICK.concurrency


def test_close_ends_reads(scripted: Start, make_title: Make) -> None:
    title = make_title({"f": b"content", "g": b"more"})
    origin = open_origin(
        scripted(lambda path, wanted: Answer(500)).url, settings=OriginSettings(backoff_base_s=5, backoff_max_s=5)
    )
    threading.Timer(0.1, origin.close).start()
    with pytest.raises(OriginCancelled):
        origin.read_chunk(title.manifest, 0)
    with pytest.raises(OriginCancelled):
        origin.read_chunk(title.manifest, 0)


def test_directory(make_title: Make) -> None:
    files = {"a b/ü%20#?.bin": blob(90_000), "empty": b"", "z#12": b"numbered", "part c:": b"a drive?", "d|": b"one?"}
    title = make_title(files)
    for url in (str(title.root), title.root.as_uri()):
        origin = open_origin(url)
        for k in range(title.manifest.chunk_count):
            chunk = origin.read_chunk(title.manifest, k)
            assert bytes(chunk.data) == title.chunk(k)
            assert chunk.bytes_received == len(chunk.data)
            verify_chunk(origin.url, title.manifest, k, chunk.data)
        origin.close()
    origin = open_origin(str(title.root))
    for name in files:
        path = title.root / name
        if name != "empty":
            last = title.manifest.chunk_count - (2 if name.startswith("a") else 1)
            path.write_bytes(b"short")
            with pytest.raises(OriginObjectChanged, match=r"when published|ends before"):
                origin.read_chunk(title.manifest, last)
            path.unlink()
            with pytest.raises(OriginObjectMissing, match="not found"):
                origin.read_chunk(title.manifest, last)
            path.write_bytes(files[name])


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://user:secret@host/x", "credentials"),
        ("https://user@host/x", "credentials"),
        ("http://host/x?token=secret", "query"),
        ("http://host/{path}/{path}?token=secret", "more than once"),
        ("http://host/x#part", "fragment"),
        ("http:///x", "no host"),
        ("http://host:99999/", "cannot be read"),
        ("ftp://host/x", "scheme"),
        ("file://elsewhere/x", "file:///"),
        ("/no/such/directory", "not a directory"),
        ("", "directory"),
    ],
)
def test_urls_refused(url: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        open_origin(url)
    assert "secret" not in str(caught.value)


def test_retry_after_values() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert parse_retry_after("7", now) == 7
    assert parse_retry_after("9" * 60, now) == 86400
    assert parse_retry_after("Tue, 01 Jan 2030 00:00:30 GMT", now) == 30
    assert parse_retry_after("Tue, 01 Jan 2020 00:00:30 GMT", now) == 0
    for bad in (None, "", "-1", "soon", "١", "1.5"):
        assert parse_retry_after(bad, now) is None


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_date_to_come_back_at_is_read_by_the_clock_that_wrote_it(
    scripted: Start, make_title: Make, ahead_s: float
) -> None:
    title = make_title({"f": blob(100)})
    now_s = time.time() + ahead_s
    busy = {"Date": formatdate(now_s, usegmt=True), "Retry-After": formatdate(now_s + 2, usegmt=True)}
    begin = time.monotonic()
    server = scripted(
        lambda path, wanted: Answer(503, busy) if time.monotonic() < begin + 1 else Answer(body=title.stream)
    )
    assert bytes(open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0).data) == title.stream
    assert time.monotonic() - begin >= 2
    assert len(server.seen) == 2


def test_verify_names_files(make_title: Make, tmp_path: Path) -> None:
    title = make_title({f"f{i}": b"x" for i in range(9)})
    verify_chunk("u", title.manifest, 0, title.stream)
    for wrong in (b"", title.stream[:-1], b"y" * 9):
        with pytest.raises(OriginObjectChanged, match="'f0', 'f1', 'f2' and others changed"):
            verify_chunk("u", title.manifest, 0, wrong)


def test_closing_ends_a_read_that_waits_for_a_byte(scripted: Start, make_title: Make) -> None:
    """An event loop closes; the origin has taken the request and says nothing."""
    title = make_title({"a": blob(70_000)})
    asked, ended = threading.Event(), threading.Event()

    def script(path: str, wanted: tuple[int, int] | None) -> Answer:
        asked.set()
        ended.wait(5)
        return Answer(500)

    server = scripted(script)
    origin = open_origin(server.url, settings=OriginSettings(stall_max_s=30))
    reading = threading.Thread(target=_read_in_vain, args=(origin, title))
    reading.start()
    assert asked.wait(10)
    began = time.monotonic()
    origin.close()
    reading.join()
    ended.set()
    assert time.monotonic() - began < 4


def _read_in_vain(origin: Any, title: Any) -> None:
    with pytest.raises(OriginError):
        origin.read_chunk(title.manifest, 0)


READ_NOTHING = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from p2pfill.model.manifest import Manifest, layout
from p2pfill.origin import OriginObjectMissing, open_origin

size = 4 << 20
manifest = Manifest("t", size, layout([("a", 64 * size)]), bytes(16 * 64), bytes(32 * 64), "blake3")
origin = open_origin(sys.argv[1])

def read(chunk):
    try:
        origin.read_chunk(manifest, chunk)
    except OriginObjectMissing:
        return 1

read(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(8) as pool:
    missing = sum(pool.map(read, range(64)))
print(missing, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_chunks_that_an_origin_lacks_take_no_memory(tmp_path: Path) -> None:
    """Each thread kept room for two or three of them: a node that was ordered a title of large chunks, 80 MiB."""
    command = [sys.executable, "-c", READ_NOTHING, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    missing, grown_mib = map(int, said.split())
    assert missing == 64
    assert grown_mib < 8
