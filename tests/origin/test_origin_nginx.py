"""Origins against a real nginx: the ordinary case, and nginx configured to misbehave."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from p2pfill.origin import (
    Listener,
    OriginCancelled,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)

pytestmark = pytest.mark.nginx
QUICK = OriginSettings(backoff_base_s=0.01, backoff_max_s=0.05, idle_max_s=10)
NAMES = ["a b/ü%20#?&+.bin", "日本/été;=@,!'()*[]{}^|~$:.txt", "plain", 'q"<>`\\x', "%41%zz"]


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_every_chunk_of_a_mixed_tree(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    files = {name: blob(1000 + i, i) for i, name in enumerate(NAMES)}
    files |= {"big": blob(300_000), "empty": b""} | {f"many/{i:04}": blob(100 + i, i) for i in range(300)}
    title = make_title(files)
    server = nginx(title.root)
    origin = open_origin(server.url, settings=QUICK)
    requests = 0
    for k in range(title.manifest.chunk_count):
        chunk = origin.read_chunk(title.manifest, k)
        assert bytes(chunk.data) == title.chunk(k)
        assert chunk.bytes_received == len(chunk.data)
        verify_chunk(origin.url, title.manifest, k, chunk.data)
        requests += chunk.requests
    origin.close()
    log = server.log()
    assert len(log) == requests
    assert len({row[3] for row in log}) <= 4 * QUICK.concurrency < requests / 9, "connections are reused"


def test_base_url_with_spaces_and_trailing_slash(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    title = make_title({"sub dir é/x y": b"content"})
    server = nginx(title.root.parent)
    title.root.rename(title.root.parent / "my trée")
    for base in (f"{server.url}/my trée/", f"{server.url}/my%20tr%C3%A9e"):
        assert open_origin(base).read_chunk(title.manifest, 0).data == b"content"


def test_slow_is_not_silent(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    """Time alone ends nothing of which bytes come: 45 kB at 10 kB/s, where half a second of silence is too long."""
    title = make_title({"big": blob(45_000)})
    patient = OriginSettings(idle_max_s=1.5, stall_max_s=1.4, backoff_base_s=0.01)
    begin = time.monotonic()
    chunk = open_origin(nginx(title.root, "limit_rate 10k;").url, settings=patient).read_chunk(title.manifest, 0)
    assert bytes(chunk.data) == title.stream
    assert time.monotonic() - begin > 2 * patient.idle_max_s
    assert chunk.bytes_received == 45_000, "nothing was fetched twice"


def test_range_ignored(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    title = make_title({"a": blob(1000), "big": blob(3_000_000), "z": blob(5)})
    server = nginx(title.root, "max_ranges 0;")
    origin = open_origin(server.url, settings=QUICK)
    received = 0
    for k in range(title.manifest.chunk_count):
        chunk = origin.read_chunk(title.manifest, k)
        assert bytes(chunk.data) == title.chunk(k)
        received += chunk.bytes_received
    assert received == len(title.stream), "in order, nothing is read twice"
    assert [row[1] for row in server.log()].count("/big") <= 1
    for k in (40, 3):
        assert bytes(origin.read_chunk(title.manifest, k).data) == title.chunk(k)


def test_the_web_server_of_the_standard_library(make_title: Callable[..., Any]) -> None:
    title = make_title({"big": blob(3_000_000), "sub/a b": blob(70_000)})
    handler = partial(QuietHandler, directory=str(title.root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        origin = open_origin(f"http://127.0.0.1:{server.server_port}", settings=QUICK)
        for k in range(title.manifest.chunk_count):
            assert bytes(origin.read_chunk(title.manifest, k).data) == title.chunk(k)
        origin.close()
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def test_cancel_while_slow(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    title = make_title({f"f{i}": blob(4000, i) for i in range(16)})
    origin = open_origin(nginx(title.root, "limit_rate 2k;").url, settings=QUICK)
    begin = time.monotonic()
    listener = Listener()
    listener.is_cancelled = lambda: time.monotonic() > begin + 0.2  # type: ignore[method-assign]
    with pytest.raises(OriginCancelled):
        origin.read_chunk(title.manifest, 0, listener)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("location", "error", "match"),
    [
        ("return 404;", OriginObjectMissing, "not found"),
        ("return 410;", OriginObjectMissing, "not found"),
        ("return 403;", OriginRefused, "access rules"),
        ("return 444;", OriginUnavailable, "gave up after 5 requests"),
        ("return 500;", OriginUnavailable, "gave up after 5 requests"),
        ("add_header Retry-After 3600 always; return 503;", OriginUnavailable, "come back in 3600 s"),
        ("add_header Retry-After 3600 always; return 429;", OriginUnavailable, "come back in 3600 s"),
    ],
)
def test_refusals(
    nginx: Callable[..., Any], make_title: Callable[..., Any], location: str, error: type[Exception], match: str
) -> None:
    title = make_title({"a b": b"content"})
    server = nginx(title.root, location)
    with pytest.raises(error, match=match) as caught:
        open_origin(server.url, settings=QUICK).read_chunk(title.manifest, 0)
    assert f"{server.url}/a%20b" in str(caught.value)
    assert "\n" not in str(caught.value)
    if "3600" in location:
        assert isinstance(caught.value, OriginUnavailable)
        assert caught.value.retry_after_s == pytest.approx(3600, abs=1)


def test_truncated_changed_and_missing(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    title = make_title({"big": blob(200_000)})
    origin = open_origin(nginx(title.root).url, settings=QUICK)
    path = title.root / "big"
    path.write_bytes(blob(200_000, 2))
    chunk = origin.read_chunk(title.manifest, 1)
    with pytest.raises(OriginObjectChanged, match="chunk 1 does not match its digest: 'big' changed"):
        verify_chunk(origin.url, title.manifest, 1, chunk.data)
    for size in (100_000, 150_000, 200_001, 0):
        os.truncate(path, size)
        with pytest.raises(OriginObjectChanged, match="big"):
            origin.read_chunk(title.manifest, 2)
    path.unlink()
    with pytest.raises(OriginObjectMissing, match="big"):
        origin.read_chunk(title.manifest, 2)


def test_nginx_goes_away(nginx: Callable[..., Any], make_title: Callable[..., Any]) -> None:
    title = make_title({"x": b"content"})
    server = nginx(title.root)
    origin = open_origin(server.url, settings=QUICK)
    assert origin.read_chunk(title.manifest, 0).data == b"content"
    server.stop()
    with pytest.raises(OriginUnavailable, match=r"Connection refused.*reachable"):
        origin.read_chunk(title.manifest, 0)
