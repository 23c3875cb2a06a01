"""A small HTTP origin: serves the files of one title, with Range, and nothing else of the disk.

    python -m p2pfill.cli.static_server ROOT FILE.fill      prints {"url": …} and serves until stopped

For the demo and for trying things out: any web server over the published tree does the same, and a real fleet has one.
The standard library's server is enough: a thread a connection, small files in one write with their head, large ones
by sendfile. Starlette's FileResponse on hypercorn, tried first, answered a fifth as many requests for small files.
What the manifest does not name is not found, so the rest of the directory stays private.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import threading
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from p2pfill.cli.exits import run_app
from p2pfill.cli.services import announce, stop_at_eof
from p2pfill.cli.text import read_manifest
from p2pfill.errors import ConfigError
from p2pfill.tracker.server import bind

CONNECTIONS_MAX: Final = 512
"""Each is a thread; a fleet of caches keeps some ten connections each."""
IDLE_S: Final = 60.0
"""A connection on which nothing moves for so long is closed."""
COPY_BYTES_MAX: Final = 64 * 1024
"""Up to here one write of head and body costs less than a write and a sendfile."""

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_STOP: Final = (signal.SIGTERM, signal.SIGINT)


class StaticServer(ThreadingHTTPServer):
    """Serves `paths` (relative, '/'-separated) below `root` on a free or given address. Raises `ConfigError`."""

    daemon_threads = True

    def __init__(self, root: Path, paths: frozenset[str], listen: str) -> None:
        listener = bind(listen)
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.root = root
        self.paths = paths
        self._slots = threading.Semaphore(CONNECTIONS_MAX)

    @property
    def url(self) -> str:
        """The base URL of the files."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection only while there are threads for more."""
        return self._slots.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that hang up; anything else is worth its traceback on stderr."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    wbufsize = 2 * COPY_BYTES_MAX
    disable_nagle_algorithm = True
    server: StaticServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def version_string(self) -> str:
        return "p2pfill"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a title may be a hundred thousand requests."""

    def _answer(self) -> None:
        path = ""
        with suppress(ValueError):
            path = unquote(urlsplit(self.path).path, errors="strict").removeprefix("/")
        file = open_file(self.server.root / path) if path in self.server.paths else None
        if file is None:
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        with file:
            self._send(file, os.fstat(file.fileno()))

    def _send(self, file: FileIO, status: os.stat_result) -> None:
        size = status.st_size
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{status.st_mtime_ns:x}-{size:x}"',
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        }
        span = None
        if self.headers.get("If-Range") in (None, headers["ETag"], headers["Last-Modified"]):
            span = parse_range(self.headers.get("Range"), size)
        start, stop = span or (0, size)
        if span is None:
            self._head(HTTPStatus.OK, size, headers)
        elif start < stop:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            self._head(HTTPStatus.PARTIAL_CONTENT, stop - start, headers)
        else:
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, {"Content-Range": f"bytes */{size}"})
        if self.command == "HEAD" or start == stop:
            return
        if stop - start <= COPY_BYTES_MAX:
            data = os.pread(file.fileno(), stop - start, start)
            self.wfile.write(data)
            sent = len(data)
        else:
            self.wfile.flush()
            sent = self.connection.sendfile(file, start, stop - start)
        # A file that was cut meanwhile: only closing tells the client, who waits for the rest.
        self.close_connection |= sent < stop - start

    def _head(self, status: HTTPStatus, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()


def open_file(path: Path) -> FileIO | None:
    """Return a regular file, open for reading; None where there is none that can be read."""
    try:
        # A fifo in its place must not hold the thread.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileIO(fd, "rb")
    os.close(fd)
    return None


def parse_range(value: str | None, size: int) -> tuple[int, int] | None:
    """Return [start, stop) of one byte range in a file of `size` bytes, empty where the file has none of it.

    None where there is no range to obey: no header, another unit, several ranges (RFC 9110 lets a server ignore them).
    """
    found = _RANGE.fullmatch(value or "")
    if not found or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return min(int(first), size), min(int(last) + 1, size) if last else size


def serve(root: Path, fill: Path, listen: str = "127.0.0.1:0") -> None:
    """Serve the title in `fill` from `root` until SIGTERM, SIGINT or the end of standard input."""
    if not root.is_dir():
        raise ConfigError(f"cannot serve {str(root)!r}: it is not a directory")
    paths = frozenset(entry.path for entry in read_manifest(fill).files)
    # Blocked in all threads, so that a signal waits for the `sigwait` below.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    stop_at_eof()
    with StaticServer(root, paths, listen) as server:
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
        announce({"url": server.url}, "", as_json=True)
        signal.sigwait(_STOP)
        server.shutdown()


def main() -> int:
    """Run as a process; see the top of this file."""
    if len(sys.argv) not in (3, 4):
        print("usage: python -m p2pfill.cli.static_server ROOT FILE.fill [HOST:PORT]", file=sys.stderr)
        return 2
    root, fill, *listen = sys.argv[1:]
    return run_app(lambda **_: serve(Path(root), Path(fill), *listen), None)


if __name__ == "__main__":
    sys.exit(main())
