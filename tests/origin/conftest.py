"""What origin tests share: a real nginx and small titles on disk.

nginx runs on a free loopback port with everything it writes below tmp_path.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xxhash
from blake3 import blake3

from p2pfill.model.cut import Cut
from p2pfill.model.limits import CHUNK_SIZE_MIN
from p2pfill.model.manifest import Manifest, layout
from p2pfill.origin.reader import OriginReader

_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/error.log info;
events {{ worker_connections 256; }}
http {{
  default_type application/octet-stream;
  log_format brief '$request_method $uri $status $connection $body_bytes_sent';
  access_log {run}/access.log brief;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location / {{ {location} }}
  }}
}}
"""


class Nginx:
    """A running nginx: `url` to read from, `root` that it serves, `stop()` to end it early."""

    def __init__(self, binary: str, run: Path, root: Path, location: str) -> None:
        self.root = root
        self.run = run
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = run / "nginx.conf"
        config.write_text(_CONFIG.format(run=run, root=root, port=self.port, location=location))
        self._process = subprocess.Popen(
            [binary, "-e", str(run / "error.log"), "-p", str(run), "-c", str(config)], stderr=subprocess.DEVNULL
        )
        self._wait_ready()

    def _wait_ready(self) -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
        self.stop()
        raise AssertionError("nginx did not start: " + (self.run / "error.log").read_text())

    def log(self) -> list[list[str]]:
        """Return the access log as [method, uri, status, connection, body bytes] rows."""
        return [line.rsplit(" ", 4) for line in (self.run / "access.log").read_text().splitlines()]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Return `start(root, location="") -> Nginx`; all are stopped at the end of the test."""
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("nginx is not installed; on Debian: apt-get install nginx-light")
        pytest.skip("nginx is not installed")
    running: list[Nginx] = []

    def start(root: Path, location: str = "") -> Nginx:
        run = tmp_path / f"nginx{len(running)}"
        run.mkdir()
        running.append(Nginx(binary, run, root, location))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(autouse=True)
def all_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close all origins that a test has opened, at its end."""
    opened: list[OriginReader] = []
    really_init = OriginReader.__init__

    def init(self: OriginReader, *arguments: Any) -> None:
        really_init(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(OriginReader, "__init__", init)
    yield
    for origin in opened:
        origin.close()


@dataclass
class Title:
    """A published tree: its directory, its manifest and the expected bytes of every chunk."""

    root: Path
    manifest: Manifest
    stream: bytes

    def chunk(self, k: int) -> bytes:
        return self.stream[slice(*self.manifest.cut.span(k))]


@pytest.fixture
def make_title(tmp_path: Path) -> Callable[[dict[str, bytes]], Title]:
    """Return `make({path: content}, chunk_size=...) -> Title`, written below tmp_path/tree, in chunks of 64 KiB."""

    def make(files: dict[str, bytes], chunk_size: int = CHUNK_SIZE_MIN) -> Title:
        root = tmp_path / "tree"
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        entries = layout((path, len(content)) for path, content in files.items())
        stream = b"".join(files[entry.path] for entry in entries)
        cut = Cut(entries, chunk_size)
        chunks = [stream[slice(*cut.span(chunk))] for chunk in range(cut.count)]
        xxh3 = b"".join(xxhash.xxh3_128_digest(chunk) for chunk in chunks)
        strong = b"".join(blake3(chunk).digest() for chunk in chunks)
        return Title(root, Manifest("a title", chunk_size, entries, xxh3, strong), stream)

    return make
