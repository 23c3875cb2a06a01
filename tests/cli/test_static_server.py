"""The demo's origin: ranges, entity tags, names that need quoting, and nothing beyond the title."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from p2pfill.cli.static_server import COPY_BYTES_MAX, StaticServer, parse_range

LARGE = bytes(range(256)) * (COPY_BYTES_MAX // 64)
NAMES = ("small", "deep/ä b/100% #?.bin", "large", "empty", "gone", "dir")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    (root / "deep" / "ä b").mkdir(parents=True)
    (root / "dir").mkdir()
    (root / "small").write_bytes(b"0123456789")
    (root / "secret").write_bytes(b"not of the title")
    (root / "deep" / "ä b" / "100% #?.bin").write_bytes(b"odd name")
    (root / "large").write_bytes(LARGE)
    (root / "empty").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def connection(root: Path) -> Iterator[http.client.HTTPConnection]:
    with StaticServer(root, frozenset(NAMES), "127.0.0.1:0") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        connection.connect()
        yield connection
        connection.close()
        server.shutdown()
        thread.join()


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Ask over the one connection, which so must outlive every answer."""
    before = connection.sock
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    assert connection.sock is before
    return response.status, body, response.headers


def test_whole_files_and_heads(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/small")[:2] == (200, b"0123456789")
    assert ask(connection, "/large")[:2] == (200, LARGE)
    assert ask(connection, "/empty")[:2] == (200, b"")
    assert ask(connection, "/" + quote("deep/ä b/100% #?.bin"))[:2] == (200, b"odd name")
    status, body, headers = ask(connection, "/large", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(LARGE)))


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [("bytes=2-5", 2, 6), ("bytes=7-", 7, 10), ("bytes=-3", 7, 10), ("bytes=0-99", 0, 10), ("bytes=-99", 0, 10)],
)
def test_one_range(connection: http.client.HTTPConnection, value: str, start: int, stop: int) -> None:
    status, body, headers = ask(connection, "/small", Range=value)
    assert (status, body) == (206, b"0123456789"[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/10"


def test_large_range(connection: http.client.HTTPConnection) -> None:
    status, body, _ = ask(connection, "/large", Range=f"bytes=1-{COPY_BYTES_MAX + 5}")
    assert (status, body) == (206, LARGE[1 : COPY_BYTES_MAX + 6])


@pytest.mark.parametrize("value", ["bytes=0-1,3-4", "lines=0-1", "bytes=-", "bytes=5-2", "bytes=x"])
def test_what_is_no_range_gets_all(connection: http.client.HTTPConnection, value: str) -> None:
    assert ask(connection, "/small", Range=value)[:2] == (200, b"0123456789")


def test_range_beyond_the_end(connection: http.client.HTTPConnection) -> None:
    status, body, headers = ask(connection, "/small", Range="bytes=10-12")
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */10")
    assert parse_range("bytes=-0", 10) == (10, 10)


def test_if_range(root: Path, connection: http.client.HTTPConnection) -> None:
    headers = ask(connection, "/small")[2]
    for known in (headers["ETag"], headers["Last-Modified"]):
        assert ask(connection, "/small", Range="bytes=0-1", If_Range=known)[:2] == (206, b"01")
    os.utime(root / "small", ns=(1, 1))
    for known in (headers["ETag"], headers["Last-Modified"], "nonsense"):
        assert ask(connection, "/small", Range="bytes=0-1", If_Range=known)[:2] == (200, b"0123456789")


@pytest.mark.parametrize(
    "path", ["/secret", "/", "/gone", "/dir", "/../secret", "/%2e%2e/x", "/deep", "/small%00", "/%ff", "/[["]
)
def test_nothing_else_is_found(connection: http.client.HTTPConnection, path: str) -> None:
    assert ask(connection, path)[:2] == (404, b"")
