"""Fills through bad networks and from wrong sources, small; and the committed report of large ones."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from bench.networks import partition, sources
from bench.networks.cache import UNWATCHED, corrupt
from bench.networks.fleet import make_title, proxied_fleet
from bench.networks.page import page
from bench.networks.records import RATIO_MAX, Report
from bench.networks.weathers import KINDS
from bench.swarm.lab import Lab, entered
from p2pfill.model.manifest import Manifest
from p2pfill.model.policy import FillPolicy
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.store.verify import verify_tree

REPORT = Path(__file__).parents[2] / "docs" / "reports" / "networks"
MIB = 1 << 20
BAD_S = 2.0


@pytest.mark.process
async def test_a_fill_through_a_storm_completes_when_it_is_over(tmp_path: Path) -> None:
    """Control links and the tracker with TLS, data streams and the origin without, all of them hit."""
    policy = FillPolicy(quarantine_s=1.0, request_timeout_s=2.0)
    caches = (("a1", "isp-a"), ("a2", "isp-a"), ("b1", "isp-b"))
    async with proxied_fleet(tmp_path, seed=3, tls=True, caches=caches) as fleet:
        title = make_title(fleet.work, "film", 6 * MIB, random.Random(3))
        run = await fleet.fill(title, KINDS["storm"].weather, BAD_S, policy)
    assert set(run.live_s) == {"a1", "a2", "b1"}
    assert run.wrong == []
    assert min(run.live_s.values()) > BAD_S, "the storm was over before"
    assert run.counts.resets + run.counts.truncated + run.counts.corrupted + run.counts.stalled > 3


# ---- wrong sources


@asynccontextmanager
async def nodes(root: Path, isps: Sequence[str], manifest: Manifest, wrong: int) -> AsyncIterator[list[Node]]:
    """Open nodes that hold the title; in those of `isp-a`, the last `wrong` of them hold a wrong bit of each chunk."""
    near = [number for number, isp in enumerate(isps) if isp == "isp-a"]
    async with AsyncExitStack() as stack:
        opened = []
        for number, isp in enumerate(isps):
            data = root / f"s{number:02}"
            config = NodeConfig(id=data.name, isp=isp, data=str(data), scrub_bytes_s=0, health=UNWATCHED)
            opened.append(await stack.enter_async_context(open_node(config)))
            await opened[-1].fill(manifest, [str(root / "film")])
            if number in near[len(near) - wrong :]:
                corrupt(data, manifest)
        yield opened


@pytest.mark.parametrize("name", ["sources-9", "sources-minority"])
async def test_a_third_of_wrong_sources_costs_one_window_each(tmp_path: Path, name: str) -> None:
    layout = sources.LAYOUTS[name]
    isps = ["isp-a"] * layout.kept[0] + ["isp-b"] * layout.kept[1] + ["isp-a"] * layout.corrupting
    source = tmp_path / "film"
    source.mkdir()
    (source / "film").write_bytes(random.Random(1).randbytes(24 * MIB))
    manifest = publish(source, name="film", chunk_size=MIB // 4).manifest
    with trio.fail_after(180):
        async with nodes(tmp_path, isps, manifest, layout.corrupting) as held:
            infos = [node.info for node in held]
            config = NodeConfig(id="a0", isp="isp-a", data=str(tmp_path / "a0"), health=UNWATCHED)
            async with open_node(config) as node:
                fill = await node.start_fill(manifest, members=[node.info], holders=infos)
                node.want_links(infos)
                await fill.wait()
                report = fill.report()
    assert verify_tree(tmp_path / "a0" / "live" / "film", manifest).ok
    wrong = [one for one in report.sources if one.state == "quarantined"]
    assert {one.id for one in wrong} <= {f"s{number:02}" for number in range(9 - layout.corrupting, 9)}
    assert wrong, "none of the wrong sources was asked"
    assert report.duplicate_bytes > 0
    assert report.duplicate_bytes <= (RATIO_MAX - 1) * manifest.size


# ---- partitions


@pytest.fixture
def _can_make_namespaces() -> None:
    lacking = "root" if os.geteuid() else "iproute2" if not shutil.which("ip") or not shutil.which("tc") else ""
    if lacking:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"the lab needs {lacking}")
        pytest.skip(f"the lab needs {lacking}")


@pytest.mark.netns
@pytest.mark.usefixtures("_can_make_namespaces")
async def test_a_cut_lets_nothing_through_but_on_one_side_and_heals() -> None:
    with Lab(partition.TOPOLOGY) as lab:

        async def reach(source: str, target: str) -> bool:
            with entered(lab.space(target)):
                listener = trio.socket.socket()
                await listener.bind((partition.TOPOLOGY.host(target).address, 0))
                listener.listen()
            with entered(lab.space(source)):
                sock = trio.socket.socket()
            with listener, sock, trio.move_on_after(0.3):
                await sock.connect(listener.getsockname())
                return True
            return False

        with partition.cut(lab, partition.KINDS["region"][1]):
            assert await reach("a1", "b1")
            assert await reach("c1", "origin")
            for source, target in (("a1", "origin"), ("b2", "c1"), ("c2", "a1"), ("tracker", "b1")):
                assert not await reach(source, target)
        assert await reach("a1", "origin")
        assert await reach("c2", "a1")


# ---- the report


def test_the_report_holds_what_is_promised() -> None:
    report = msgspec.json.decode((REPORT / "networks.json").read_bytes(), type=Report)
    assert {(one.name, one.tls) for one in report.scenarios} == {
        (name, tls) for name in (*KINDS, *partition.KINDS) for tls in (False, True)
    }
    for scenario in report.scenarios:
        assert not scenario.lost
        assert all(len(run.live_s) == scenario.caches for run in scenario.runs)
    assert {one.name for one in report.comparisons} == set(sources.LAYOUTS)
    for one in report.comparisons:
        assert 3 * one.corrupting == one.sources
        assert min(len(one.honest), len(one.mixed)) >= 5
        assert one.ratio <= RATIO_MAX
    assert (REPORT / "README.md").read_text() == page(report)
