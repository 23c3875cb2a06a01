"""Nodes that keep to limits, over real sockets and disks: nobody is blamed for them, and they can be changed."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from p2pfill.errors import ConfigError
from p2pfill.model.manifest import Manifest
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.windows import ALWAYS_OPEN, FillWindows, Window
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.fill import FillDriver
from p2pfill.store.publish import publish
from tests.measure import acheck_at_most

MIB = 1 << 20


def publish_film(root: Path, size: int) -> Manifest:
    root.mkdir()
    (root / "film").write_bytes(os.urandom(size))
    return publish(root, name="film", chunk_size=MIB).manifest


@asynccontextmanager
async def caches(folder: Path, *names: str, isp: str = "a") -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        configs = [NodeConfig(id=name, isp=isp, data=str(folder / name)) for name in names]
        yield [await stack.enter_async_context(open_node(config)) for config in configs]


async def fill_within(node: Node, manifest: Manifest, origins: list[str], others: list[Node]) -> FillDriver:
    infos = [other.info for other in others]
    fill = await node.start_fill(manifest, origins, members=infos, holders=infos)
    node.want_links(infos)
    return fill


async def test_nobody_is_blamed_for_our_own_limit(tmp_path: Path) -> None:
    """Three sources that come to 50 kB/s each crawl, and a fourth that nobody asked might be faster."""
    manifest = publish_film(tmp_path / "src", 3 * MIB)
    async with caches(tmp_path, "a1", "a2", "a3", "a4", "a0") as nodes:
        *sources, slow = nodes
        with trio.fail_after(60):
            for node in sources:
                await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
            slow.set_rates(RateLimits(Rates(total=150_000)))
            began = trio.current_time()
            fill = await fill_within(slow, manifest, [], sources)
            blamed: set[str] = set()
            while not fill.done.is_set():
                blamed |= {one.barred_reason for one in fill.fill.sources.values()} - {""}
                await trio.sleep(0.1)
        report = fill.report()
        assert fill.state == "live", fill.error
        assert trio.current_time() - began > 0.8 * manifest.size / 150_000
    assert not blamed
    assert (report.duplicate_bytes, report.escalations, report.bytes_peer) == (0, {}, manifest.size)


async def test_a_limit_for_the_origin_leaves_caches_alone(tmp_path: Path) -> None:
    """What comes from the origin crawls along, and what a neighbour has comes at once."""
    manifest = publish_film(tmp_path / "src", 12 * MIB)
    half = publish_film(tmp_path / "one", MIB)
    async with caches(tmp_path, "a1", "a0") as (full, limited):
        with trio.fail_after(60):
            await (await full.start_fill(manifest, [str(tmp_path / "src")])).wait()
            limited.set_rates(RateLimits(Rates(origin=100_000)))
            began = trio.current_time()
            crawling = await limited.start_fill(half, [str(tmp_path / "one")])
            fill = await fill_within(limited, manifest, [], [full])
            await fill.wait()
            assert trio.current_time() - began < 5
            assert not crawling.done.is_set()
            limited.set_rates(NO_LIMITS)
            await crawling.wait()
        report = crawling.report()
    assert report.bytes_origin == half.size
    assert (report.duplicate_bytes, report.escalations) == (0, {})


async def test_reads_of_an_origin_end_while_they_wait(tmp_path: Path) -> None:
    """Their threads, too: each would ask for its turn for ever."""
    manifest = publish_film(tmp_path / "src", 3 * MIB)
    with trio.fail_after(60):
        async with caches(tmp_path, "a1") as (node,):
            node.set_rates(RateLimits(Rates(origin=1000)))
            fill = await node.start_fill(manifest, [str(tmp_path / "src")])
            await trio.sleep(0.3)
            reads = [receive for _, receive in fill.task.reads.values()]
            began = time.monotonic()
    assert time.monotonic() - began < 10
    assert reads
    assert not [receive for receive in reads if receive.is_wanted]


@pytest.mark.alone
async def test_an_origin_keeps_to_its_limit_and_to_a_change(tmp_path: Path) -> None:
    manifest = publish_film(tmp_path / "src", 40 * MIB)

    async def off(number: int) -> float:
        async with caches(tmp_path, f"a{number}") as (node,):
            node.set_rates(RateLimits(Rates(origin=4_000_000)))
            fill = await node.start_fill(manifest, [str(tmp_path / "src")])
            worst = 0.0
            for rate in (4_000_000, 8_000_000):
                node.set_rates(RateLimits(Rates(origin=rate)))
                await trio.sleep(1)
                # A chunk counts when it is whole, so from chunk to chunk.
                began, before = await next_chunk(fill)
                await trio.sleep(2)
                ended, after = await next_chunk(fill)
                worst = max(worst, abs((after - before) * MIB / (ended - began) / rate - 1))
            return worst

    with trio.fail_after(60):
        await acheck_at_most(0.1, off)


async def next_chunk(fill: FillDriver) -> tuple[float, int]:
    before = count = fill.fill.ledger.have.count()
    while count == before:
        await trio.sleep(0.002)
        count = fill.fill.ledger.have.count()
    return trio.current_time(), count


async def test_limits_of_the_configuration_hold_from_the_start_and_of_all_owners_the_tightest(tmp_path: Path) -> None:
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path), rates={"inbound": "2MB", "outbound": {"peer": "1MB"}})
    async with open_node(config) as node:
        assert node.rates == RateLimits(Rates(total=2_000_000), Rates(peer=1_000_000))
        node.limits.put("window", RateLimits(Rates(total=1_000_000)))
        assert node.rates == RateLimits(Rates(total=1_000_000), Rates(peer=1_000_000))
        node.set_rates(NO_LIMITS)
        assert node.rates == RateLimits(Rates(total=1_000_000))


async def test_the_window_that_is_open_limits_too(tmp_path: Path) -> None:
    windows = {"outside": "3MB", "window": [{"from": "00:00", "to": "00:00", "rates": "1MB"}]}
    async with open_node(NodeConfig(id="a1", isp="a", data=str(tmp_path), rates="2MB", windows=windows)) as node:
        assert node.rates == RateLimits(Rates(total=1_000_000))
        # Not today, nor tomorrow.
        far = Window(((datetime.now(UTC).weekday() + 3) % 7,), 0, 60)
        node.hours.set_windows(FillWindows(outside=1_500_000, windows=(far,)))
        assert node.rates == RateLimits(Rates(total=1_500_000))
        node.hours.set_windows(ALWAYS_OPEN)
        assert node.rates == RateLimits(Rates(total=2_000_000))


def test_wrong_rates_are_refused_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    text = 'id = "a1"\nisp = "a"\ndata = "d"\n'
    file.write_text(text + 'rates = "1.2Gbit"\n')
    assert NodeConfig.load(file).limits() == RateLimits(Rates(total=150_000_000))
    file.write_text(text + '[rates.inbound]\npeer = "fast"\n')
    with pytest.raises(ConfigError, match=r"^rates\.inbound\.peer: 'fast' is no rate"):
        NodeConfig.load(file)
