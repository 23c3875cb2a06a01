"""A tracker in a thread of its own, since commands run a Trio loop themselves, and caches that only pretend."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import HoursReport, NodeReport, SourceReport, TitleReport
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.server import serve_tracker


class FakeFleet:
    """Sends heartbeats for caches that do not exist."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sequence = 0

    def beat(self, node_id: str, *titles: TitleReport, isp: str = "isp-a", night: str = "") -> None:
        self.sequence += 1
        info = NodeInfo(id=NodeId(node_id), isp=isp, region="eu", host="127.0.0.1", port=4000)
        hours = HoursReport(night=night)
        report = NodeReport(info=info, boot="boot", sequence=self.sequence, titles=list(titles), hours=hours)

        async def send() -> None:
            async with TrackerClient(self.url) as client:
                await client.heartbeat(report)

        trio.run(send)


def make_manifest(name: str = "film", chunks: int = 4) -> Manifest:
    size = 65536
    return Manifest(name, size, layout([("a.bin", chunks * size)]), bytes(16 * chunks), bytes(32 * chunks))


def make_report(manifest: Manifest, state: str, have: int, **more: object) -> TitleReport:
    fields: dict[str, object] = {
        "title": manifest.title_id.hex(),
        "state": state,
        "chunk_count": manifest.chunk_count,
        "have_chunks": have,
        "have_bytes": have * manifest.chunk_size,
        "title_bytes": manifest.size,
        "bytes_peer": have * manifest.chunk_size,
        "sources": [SourceReport(id="a9", tier="peer", state="slow", reason="half as fast as others")],
        "escalations": {"master silent": 2},
    }
    return TitleReport(**(fields | more))  # type: ignore[arg-type]


class Make:
    """The makers, for tests that cannot import from a conftest."""

    manifest = staticmethod(make_manifest)
    report = staticmethod(make_report)


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.fill"
    path.write_bytes(make_manifest().encode())
    return path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    ready: queue.Queue[tuple[str, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.Queue()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(
                lambda task_status: serve_tracker(
                    "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=5.0, task_status=task_status
                )
            )
            ready.put((url, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    url, token, scope = ready.get(timeout=10)
    yield FakeFleet(url)
    token.run_sync_soon(scope.cancel)
    thread.join(timeout=10)
    assert not thread.is_alive()
