"""An origin without Range, and a fleet: one cache reads it for all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from origin.servers import RawServer, Request, head
from process.fleet import Fleet, Title, wait_until

pytestmark = pytest.mark.process


class CountingOrigin:
    """Answers each request with the whole file; counts what has left, in pieces of 64 KiB."""

    def __init__(self, root: Path) -> None:
        self.sent = 0
        self._root = root
        self._lock = threading.Lock()
        self.server = RawServer(self._answer)

    def _answer(self, request: Request, connection: socket.socket) -> bool:
        data = (self._root / unquote(request.target[1:])).read_bytes()
        connection.sendall(head(200, Content_Length=len(data)))
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


@pytest.mark.parametrize("isps", [("isp", "isp", "isp"), ("isp-a", "isp-a", "isp-b")])
def test_one_cache_of_a_fleet_reads_it_for_all(empty_fleet: Fleet, tmp_path: Path, isps: tuple[str, ...]) -> None:
    title = Title(tmp_path, "film", 48 << 20, chunk_size=1 << 20)
    names = ["a1", "a2", "a3"]
    origin = CountingOrigin(title.root)
    try:
        empty_fleet.start(*zip(names, isps, strict=True))
        wait_until("all are known", lambda: empty_fleet.alive() == set(names))
        empty_fleet.order(title, [origin.server.url])
        reports = empty_fleet.live(names, title)
    finally:
        origin.server.stop()
    said = f"{origin.sent / title.size:.2f} copies have left: {reports}"
    assert origin.sent <= 2 * title.size, said
    assert sum(report["bytes_origin"] for report in reports.values()) <= 1.5 * title.size, said
