"""The fleet's policy on real nodes: what it forbids waits and says why, and a change takes hold of running fills."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pfill.model.manifest import Manifest
from p2pfill.model.terms import REGIONAL
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, PolicyRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
LIMIT_S = 90.0
SOON_S = 8.0
"""Within which a change takes hold: seconds, on a machine that is busy with other tests."""
HOME = '[[fills]]\nname = "home"\nhops = ["isp"]\n'
STAY = '[[residency]]\nname = "licence"\nregions = ["eu"]\n'


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(20 * CHUNK))
    return publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest


@asynccontextmanager
async def fleet(
    tmp_path: Path, *, heartbeat_s: float = 0.1, **nodes: tuple[str, str]
) -> AsyncIterator[tuple[TrackerClient, dict[str, Node]]]:
    """Run a tracker, and nodes of an ISP and a region each."""
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            serve = partial(serve_tracker, heartbeat_s=heartbeat_s)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            found = {}
            for name, (isp, region) in nodes.items():
                config = NodeConfig(id=name, isp=isp, region=region, data=str(tmp_path / name), tracker=url)
                found[name] = await stack.enter_async_context(open_node(config))
            client = await stack.enter_async_context(TrackerClient(url))
            while len(await client.nodes()) < len(nodes):
                await trio.sleep(0.02)
            yield client, found
            await stack.aclose()
            nursery.cancel_scope.cancel()


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(SOON_S):
        while not await condition():
            await trio.sleep(0.05)


async def test_a_policy_that_changes_takes_hold_of_a_running_fill(tmp_path: Path, manifest: Manifest) -> None:
    async with fleet(tmp_path, a1=("isp-a", "eu")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(PolicyRequest(HOME))
        created = await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))

        async def waits() -> bool:
            notes = (await client.explain("a1", title)).notes
            return any("since rule 'home' of the fleet's policy forbids the origin" in note for note in notes)

        await soon(waits)
        notes = (await client.explain("a1", title)).notes
        assert any(note.startswith("Rule 'home' of the fleet's policy (version 1) decides") for note in notes), notes
        fill = nodes["a1"].fill_of(manifest.title_id)
        assert fill is not None
        assert not any(fill.fill.bytes_by_scope.values())
        await client.apply_policy(PolicyRequest("# the origin again"))

        async def is_done() -> bool:
            return (await client.fill(created.fill_id)).done

        await soon(is_done)


async def test_a_title_stays_in_its_region(tmp_path: Path, manifest: Manifest) -> None:
    async with fleet(tmp_path, a1=("isp-a", "eu"), u1=("isp-u", "us")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(PolicyRequest(STAY))
        created = await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))
        assert (created.nodes, created.left_out) == (["a1"], {"u1": "licence"})

        async def is_done() -> bool:
            return (await client.fill(created.fill_id)).done

        await soon(is_done)
        await trio.sleep(0.5)
        assert nodes["u1"].titles.stored(manifest.title_id) is None
        notes = (await client.explain("u1", title)).notes
        assert any("the node stands in us, and gets no order" in note for note in notes), notes


@pytest.mark.parametrize("isp", ["isp-a", "isp-b"])
async def test_who_may_not_go_to_the_origin_leaves_that_to_others(
    tmp_path: Path, manifest: Manifest, isp: str
) -> None:
    async with fleet(tmp_path, a1=("isp-a", "eu"), a2=(isp, "eu")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(
            PolicyRequest('[[fills]]\nname = "no cloud"\nselector = "id=a1"\nhops = ["isp", "region"]\n')
        )
        created = await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))

        async def is_done() -> bool:
            return (await client.fill(created.fill_id)).done

        await soon(is_done)
        totals = (await client.fill(created.fill_id)).totals
        assert totals.bytes_origin == manifest.size, "one copy, all of it by the other"
        first = nodes["a1"].fill_of(manifest.title_id)
        assert first is not None
        assert first.report().bytes_origin == 0


async def test_who_waits_longer_is_no_hindrance_to_the_others(tmp_path: Path, manifest: Manifest) -> None:
    async with fleet(tmp_path, a1=("isp-a", "eu"), a2=("isp-a", "eu")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(
            PolicyRequest('[[fills]]\nname = "later"\nselector = "id=a1"\nwaits = {origin = "1h"}\n')
        )
        created = await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))

        async def is_done() -> bool:
            return (await client.fill(created.fill_id)).done

        with trio.fail_after(4 * SOON_S):
            while not await is_done():
                await trio.sleep(0.1)
        first = nodes["a1"].fill_of(manifest.title_id)
        assert first is not None
        assert first.report().bytes_origin == 0


async def test_an_order_that_is_there_before_any_allowance_fetches_nothing(tmp_path: Path, manifest: Manifest) -> None:
    budget = f'[[budgets]]\nname = "cloud"\nbytes = {8 * CHUNK}\n'
    async with fleet(tmp_path, heartbeat_s=3.0, a1=("isp-a", "eu"), a2=("isp-b", "eu")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(PolicyRequest(budget))
        await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))
        most = 0
        with trio.fail_after(4 * SOON_S):
            while most < 8 * CHUNK:
                counts = [one for node in nodes.values() for one in node.titles.origin_counts.totals()]
                most = sum(one.bytes_kept + one.bytes_wasted for one in counts)
                assert most <= 8 * CHUNK
                await trio.sleep(0.02)


@asynccontextmanager
async def until_spent(
    tmp_path: Path, manifest: Manifest, budget: str
) -> AsyncIterator[tuple[TrackerClient, dict[str, Node]]]:
    """Fill a title in two ISPs until a cache says that the budget has nothing left; then lift it, and fill the rest."""
    name = budget.split('"')[1]
    async with fleet(tmp_path, a1=("isp-a", "eu"), a2=("isp-b", "eu")) as (client, nodes):
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        await client.apply_policy(PolicyRequest(budget))
        created = await client.post_fill(FillRequest(title, "all", [str(tmp_path / "src")]))

        async def says_so() -> bool:
            notes = [note for node in nodes for note in (await client.explain(node, title)).notes]
            spent = re.compile(f"budget {name!r} of the fleet's policy(, which)? has nothing left")
            return any(map(spent.search, notes))

        with trio.fail_after(4 * SOON_S):
            while not await says_so():
                await trio.sleep(0.1)
        await trio.sleep(2.0)
        yield client, nodes
        await client.apply_policy(PolicyRequest(re.sub("bytes = .*", 'bytes = "1G"', budget)))

        async def is_done() -> bool:
            return (await client.fill(created.fill_id)).done

        with trio.fail_after(5 * SOON_S):
            while not await is_done():
                await trio.sleep(0.1)
        assert (await client.fill(created.fill_id)).totals.bytes_origin == manifest.size


async def test_the_budget_of_an_origin_holds_for_the_whole_fleet(tmp_path: Path, manifest: Manifest) -> None:
    budget = f'[[budgets]]\nname = "cloud"\nbytes = {8 * CHUNK}\n'
    async with until_spent(tmp_path, manifest, budget) as (client, _):
        used = sum(one.counts.bytes_kept + one.counts.bytes_wasted for one in (await client.origins_used()).origins)
        assert 0 < used <= 8 * CHUNK


async def test_a_budget_of_the_regional_tier_holds_in_real_nodes(tmp_path: Path, manifest: Manifest) -> None:
    budget = f'[[budgets]]\nname = "transit"\ntier = "regional"\nbytes = {5 * CHUNK}\n'
    async with until_spent(tmp_path, manifest, budget) as (client, nodes):
        assert 0 < sum(node.engine.regional_bytes for node in nodes.values()) <= 5 * CHUNK
        assert not [one for one in (await client.origins_used()).origins if one.counts.id == REGIONAL]
