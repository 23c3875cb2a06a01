"""An origin without Range, and a fleet: one cache reads it for all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from measure import check_at_most
from origin.servers import RawServer, Request, head
from process.fleet import Fleet, Title, wait_until

SENT_MAX, KEPT_MAX = 2.0, 1.5
"""Copies."""

pytestmark = [pytest.mark.process, pytest.mark.alone]


class CountingOrigin:
    """Answers each request with the whole file; counts what has left, in pieces of 64 KiB."""

    def __init__(self, root: Path) -> None:
        """`root` is the directory of the files, which a store of objects has below the name of its bucket."""
        self.sent = 0
        self._root = root
        self._lock = threading.Lock()
        self.server = RawServer(self._answer)

    def _answer(self, request: Request, connection: socket.socket) -> bool:
        data = (self._root / unquote(request.target[1:]).removeprefix("films/dir/")).read_bytes()
        connection.sendall(head(200, Content_Length=len(data), Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT"))
        for at in range(0, len(data), 65536):
            piece = data[at : at + 65536]
            connection.sendall(piece)
            with self._lock:
                self.sent += len(piece)
        return True


@pytest.fixture
def empty_fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.mark.parametrize(
    ("isps", "is_bucket"),
    [(("isp", "isp", "isp"), False), (("isp-a", "isp-a", "isp-b"), False), (("isp-a", "isp-a", "isp-b"), True)],
)
def test_one_cache_of_a_fleet_reads_it_for_all(
    empty_fleet: Fleet, tmp_path: Path, isps: tuple[str, ...], is_bucket: bool
) -> None:
    names = ["a1", "a2", "a3"]
    anybody = {"AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1"}
    empty_fleet.start(*zip(names, isps, strict=True), environment=anybody if is_bucket else None)
    wait_until("all are known", lambda: empty_fleet.alive() == set(names))

    def excess(number: int) -> float:
        """Return by how much too many copies have left, or were kept."""
        title = Title(tmp_path, f"film{number}", 48 << 20, chunk_size=1 << 20)
        origin = CountingOrigin(title.root)
        try:
            url = origin.server.url
            empty_fleet.order(title, [f"s3://films/dir?endpoint={url.rstrip('/')}" if is_bucket else url])
            reports = empty_fleet.live(names, title)
        finally:
            origin.server.stop()
        assert any("has no Range" in source["reason"] for report in reports.values() for source in report["sources"])
        kept = sum(report["bytes_origin"] for report in reports.values())
        return max(origin.sent / title.size / SENT_MAX, kept / title.size / KEPT_MAX)

    check_at_most(1.0, excess)
