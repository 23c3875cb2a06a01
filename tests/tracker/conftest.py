"""A tracker on a free port of the loopback, and the makers of what is sent to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport, TitleReport
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.server import serve_tracker

HEARTBEAT_S = 0.2


def make_manifest(name: str = "film", chunks: int = 4) -> Manifest:
    size = 65536
    return Manifest(
        name=name,
        chunk_size=size,
        files=layout([("a.bin", chunks * size)]),
        xxh3=bytes(16 * chunks),
        blake3=bytes(32 * chunks),
        integrity="blake3",
    )


def make_info(node_id: str, isp: str = "isp-a", region: str = "eu") -> NodeInfo:
    return NodeInfo(id=node_id, isp=isp, region=region, host="127.0.0.1", port=4000)  # type: ignore[arg-type]


def make_report(info: NodeInfo, sequence: int = 1, *titles: TitleReport, boot: str = "boot-1") -> NodeReport:
    return NodeReport(info=info, boot=boot, sequence=sequence, titles=list(titles))


@pytest.fixture
def make() -> type[Make]:
    return Make


class Make:
    """The makers, for tests that cannot import from a conftest."""

    manifest = staticmethod(make_manifest)
    info = staticmethod(make_info)
    report = staticmethod(make_report)
    heartbeat_s = HEARTBEAT_S


@pytest.fixture
async def client(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[TrackerClient]:
    serve: Callable[..., object] = serve_tracker
    url = await nursery.start(  # type: ignore[call-overload]
        lambda task_status: serve(
            "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=HEARTBEAT_S, task_status=task_status
        )
    )
    async with TrackerClient(url) as opened:
        yield opened
